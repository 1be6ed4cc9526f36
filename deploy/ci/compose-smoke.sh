#!/bin/bash
# Start docker-compose.yml for real, ask it what a user would ask, break it, and see what it says.
#
#   deploy/ci/compose-smoke.sh [SERVICE ...]      default: train inference gateway prometheus
#
# Needs docker compose 2.24 or newer ($DOCKER_HOST is honoured), curl and python3. Takes volumes and containers
# of a project of its own, and removes them. Prints one PASS or FAIL line per check; exits 1 after a FAIL.
#
#   IN_NETWORK=...           a command put before every request to the published ports, for an engine
#                            whose ports are in another network namespace (nsenter --net=...)
#   ATRIL_WHEELS=FOLDER      install torch from this folder (deploy/ci/compose.wheels.yml)
#   STAND_IN_PROMETHEUS=1    build deploy/ci/prometheus.Dockerfile under the name of the real image
#   KEEP=1                   leave everything running at the end
# shellcheck disable=SC2329  # the functions are called by name, through check
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

SERVICES=("$@")
[ $# -gt 0 ] || SERVICES=(train inference gateway prometheus)
GATEWAY=http://127.0.0.1:8000
PROMETHEUS=http://127.0.0.1:9090
DIGIT=deploy/ci/digit-3.png
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-atril-smoke}
export COMPOSE_FILE=docker-compose.yml
[ -z "${ATRIL_WHEELS:-}" ] || COMPOSE_FILE+=:deploy/ci/compose.wheels.yml
read -ra IN_NETWORK <<< "${IN_NETWORK:-}"
FAILED=0

check() { # check NAME COMMAND ...: one line; what the command says when it fails, or after `= `
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "PASS $name"
    grep '^= ' <<< "$output" | sed 's/^=/    /'
  else
    FAILED=1
    echo "FAIL $name"
    printf '%s\n' "$output" | tail -n 40 | sed 's/^/     /'
  fi
}
has() { [[ " ${SERVICES[*]} " == *" $1 "* ]]; }
ask() { "${IN_NETWORK[@]}" curl --silent --show-error --max-time 40 "$@"; }
classify() { ask -H 'content-type: image/png' --data-binary @"$DIGIT" "$@" "$GATEWAY/v1/models/lenet5:classify"; }
within() { # within SECONDS COMMAND ...: again and again until it succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 1
  done
}
inside() { # inside SERVICE PYTHON-CODE
  docker compose exec -T "$1" python -c "$2"
}

is_three() {
  classify | python3 -c '
import json, sys
answer = json.load(sys.stdin)
sys.exit(0 if answer["results"][0]["top"][0]["label"] == "3" else f"not a 3: {answer}")'
}
status_is() { # status_is CODE CURL-ARGUMENTS ...
  local want=$1 got
  shift
  got=$(ask -o /dev/null -w '%{http_code}' "$@")
  [ "$got" = "$want" ] || { echo "answered $got, not $want"; return 1; }
}
unavailable() {
  local answer
  answer=$(classify --include)
  echo "$answer"
  grep -q '^HTTP/1.1 503' <<< "$answer" && grep -qi '^retry-after:' <<< "$answer" && grep -q '"error"' <<< "$answer"
}
serving_over_grpc() {
  inside gateway '
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel("127.0.0.1:8001") as channel:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer'
}
counted_by_gateway() { ask "http://127.0.0.1:8002/metrics" | grep -E '^atril_requests_total\{.*outcome="ok".*\} [1-9]'; }
counted_by_inference() {
  inside inference '
import re, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:9002/metrics", timeout=5).read().decode()
assert re.search(r"^nv_inference_request_success\{.*lenet5.*\} [1-9]", text, re.M), text[:3000]'
}
targets_up() {
  ask "$PROMETHEUS/api/v1/targets?state=active" | python3 -c '
import json, sys
targets = json.load(sys.stdin)["data"]["activeTargets"]
up = {target["labels"]["job"] for target in targets if target["health"] == "up"}
sys.exit(0 if {"gateway", "inference"} <= up else str(targets))'
}
dashboard_answered() {
  for _ in 1 2 3; do classify -o /dev/null; done
  "${IN_NETWORK[@]}" python3 deploy/ci/check_dashboard.py "$PROMETHEUS" deploy/grafana/dashboards/atril.json
}
confined() { # confined SERVICE: uid, read-only root, no capability, no torch, no pip
  inside "$1" '
import importlib.util, os
assert os.getuid() == 10001, os.getuid()
assert os.statvfs("/").f_flag & os.ST_RDONLY, "the root file system can be written"
status = open("/proc/self/status").read()
assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status, status
found = [m for m in ("torch", "pip") if importlib.util.find_spec(m)]
assert not found, found'
}
reads_only() {
  inside inference '
import errno, pathlib
try:
    pathlib.Path("/models/x").touch()
except OSError as err:
    assert err.errno == errno.EROFS, err
else:
    raise SystemExit("inference can write models")'
}
cut_off() {
  inside inference '
import socket
try:
    socket.create_connection(("1.1.1.1", 53), timeout=3)
except OSError:
    pass
else:
    raise SystemExit("inference reaches the outside")'
}
versions() { inside inference 'import os; print(sorted(v for v in os.listdir("/models/lenet5") if v.isdigit()))'; }
trained_once() { [ "$(versions)" = "['1']" ] || { versions; return 1; }; }
exit_code() { docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet "$1" | head -1)"; }
stops_cleanly() { # in less than its grace period, with a zero status: it was not killed
  local started=$SECONDS
  docker compose stop "$1" || return 1
  echo "= stopped in $((SECONDS - started)) s with status $(exit_code "$1")"
  [ $((SECONDS - started)) -lt 40 ] && [ "$(exit_code "$1")" = 0 ]
}
loses_nothing() { # loses_nothing COMMAND ...: four clients ask without a pause while it runs
  local folder client answers other
  folder=$(mktemp -d)
  for client in 1 2 3 4; do
    until [ -e "$folder/stop" ]; do classify -o /dev/null -w '%{http_code}\n'; done > "$folder/$client" 2>&1 &
  done
  "$@"
  local status=$?
  sleep 2
  touch "$folder/stop"
  wait
  answers=$(cat "$folder"/[1-4])
  rm -r "$folder"
  other=$(grep -vc '^200$' <<< "$answers")
  sort <<< "$answers" | uniq -c
  echo "= $(wc -l <<< "$answers") requests, $other lost"
  [ "$status" = 0 ] && [ "$other" = 0 ] && [ "$(wc -l <<< "$answers")" -gt 50 ]
}
replicas() { docker compose ps --quiet inference; }
restart_each() {
  local replica
  for replica in $(replicas); do
    docker restart --time 45 "$replica" || return 1
    within 60 healthy "$replica" || return 1
  done
}
kill_one() { # the engine does not restart what was killed by hand
  local replica
  replica=$(replicas | head -1)
  docker kill "$replica" && sleep 3 && docker start "$replica" && within 60 healthy "$replica"
}
healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }
gateway_restarts() {
  local container
  container=$(docker compose ps --quiet gateway)
  inside gateway '
import os, pathlib, signal
others = (int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit())
for pid in set(others) - {1, os.getpid()}:
    if b"atril_gateway" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
        os.kill(pid, signal.SIGKILL)' || return 1
  within 60 is_three && [ "$(docker inspect --format '{{.RestartCount}}' "$container")" -ge 1 ]
}
tear_down() { [ -n "${KEEP:-}" ] || docker compose --profile gpu down --volumes --timeout 45 > /dev/null 2>&1; }
took() { echo "     ${1}: $((SECONDS - ${2})) s"; }

trap tear_down EXIT
docker compose --profile gpu down --volumes --timeout 5 > /dev/null 2>&1

check "the compose file is accepted" docker compose config --quiet
if [ -n "${STAND_IN_PROMETHEUS:-}" ]; then
  image=$(docker compose config --images prometheus | grep prom/)
  check "a stand-in for $image builds" docker build --tag "$image" - < deploy/ci/prometheus.Dockerfile
fi
started=$SECONDS
check "the images build" docker compose build "${SERVICES[@]}"
took build $started
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | sed -n 's,^atril/,     &,p'
started=$SECONDS
check "everything starts and becomes healthy" docker compose up --detach --wait --wait-timeout 900 "${SERVICES[@]}"
took up $started
if [ $FAILED = 1 ]; then
  docker compose ps --all
  docker compose logs --tail 15
  exit 1
fi

check "training ended well" test "$(exit_code train)" = 0
check "the gateway is live" status_is 200 "$GATEWAY/v2/health/live"
check "the gateway is ready" status_is 200 "$GATEWAY/v2/health/ready"
check "a picture of a 3 is a 3" is_three
check "the gateway serves gRPC" serving_over_grpc
check "the gateway counted it" counted_by_gateway
check "inference counted it" counted_by_inference
for service in inference gateway; do check "$service is confined, without torch" confined $service; done
check "inference cannot write models" reads_only
check "inference cannot reach the outside" cut_off
if has prometheus; then
  check "Prometheus scrapes both" within 30 targets_up
  check "Prometheus answers every query of the dashboard" within 60 dashboard_answered
fi

check "started again, nothing is trained again" docker compose up --detach --wait --wait-timeout 120 "${SERVICES[@]}"
check "there is one version" trained_once

check "inference stops cleanly" stops_cleanly inference
check "without a replica the gateway says 503, when to retry, and why" unavailable
check "without a replica the gateway is live" status_is 200 "$GATEWAY/v2/health/live"
check "without a replica the gateway is not ready" within 20 status_is 503 "$GATEWAY/v2/health/ready"
# Not `compose start`, which would start training first.
UP=(docker compose up --detach --wait --wait-timeout 120 --no-deps --no-recreate)
check "inference starts again" "${UP[@]}" inference
check "the gateway finds it again" within 60 is_three

check "a second replica starts" "${UP[@]}" --scale inference=2 inference
check "each of two replicas is restarted and no request is lost" loses_nothing restart_each
check "one of two replicas is killed and no request is lost" loses_nothing kill_one
check "a killed gateway is started again" gateway_restarts
check "the gateway stops cleanly" stops_cleanly gateway
exit $FAILED
