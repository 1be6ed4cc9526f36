"""The inference service from its start to its end: drain, overload, clients that leave."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.processes import ServerProcess, running_server, started_server
from tests.support.raw_http import infer_bytes, raw_connection
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import matmul, slow
from tests.support.transports import Answer, Call, Grpc, HttpBinary, Refusal, grpc_message
from tests.support.waiting import wait_until

SLOW = {"model": "slow", "version": "1"}
FAILURES = "nv_inference_request_failure"
PENDING = "nv_inference_pending_request_count"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick model, and a slow one that runs one request at a time."""
    root = tmp_path_factory.mktemp("repository")
    quick = matmul()
    write_model(root, config_of("quick", quick, max_batch_size=8, queue_delay_us=0), {1: quick})
    long = slow()
    write_model(root, config_of("slow", long, max_batch_size=1, queue_delay_us=0), {1: long})
    return root


def slow_call(rounds: int = 0) -> Call:
    """A request to the slow model; each round adds to its time."""
    return Call(
        "slow",
        {"rounds": np.array([[rounds]], np.int64), "x": np.ones((1, 1), np.float32)},
    )


LONG_ROUNDS = 2000
"""As many rounds as take a second or so, long enough to act meanwhile."""

SLOW_BODY = {
    "inputs": [
        {"name": "rounds", "shape": [1, 1], "datatype": "INT64", "data": [0]},
        {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]},
    ]
}


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for answers."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def pending(server: ServerProcess) -> float:
    """Requests that wait for the slow model."""
    return server.metrics().value(PENDING, **SLOW)


def answered(server: ServerProcess) -> float:
    """Requests that the slow model has answered."""
    return server.metrics().value("nv_inference_request_success", **SLOW)


def failures(server: ServerProcess, reason: str) -> float:
    """Failed requests of the slow model."""
    return server.metrics().value(FAILURES, reason=reason, **SLOW)


def infer(server: ServerProcess, call: Call, protocol: str) -> Answer:
    """One inference on a connection of its own."""
    client = (HttpBinary if protocol == "http" else Grpc)(server.http_url, server.grpc_address)
    try:
        return client.infer(call)
    finally:
        client.close()


def start_waiting(
    server: ServerProcess, callers: ThreadPoolExecutor, count: int, rounds: int = 200
) -> list[Future[Answer]]:
    """Requests over both protocols, all accepted: one runs, what is not answered yet waits."""
    futures = [
        callers.submit(infer, server, slow_call(rounds), "http" if i % 2 else "grpc")
        for i in range(count)
    ]
    wait_until(lambda: pending(server) + answered(server) >= count - 1, "requests in the queue")
    return futures


def test_a_drain_ends_readiness_first_and_answers_what_comes(repository: Path) -> None:
    """2.7: SIGTERM → not ready over HTTP and gRPC, live and serving on, then exit 0."""
    with running_server(repository, drain_s=300) as server:
        server.process.send_signal(signal.SIGTERM)
        ready = f"{server.http_url}/v2/health/ready"
        wait_until(lambda: httpx.get(ready).status_code == 503, "the end of readiness")
        assert httpx.get(f"{server.http_url}/v2/health/live").status_code == 200
        with grpc.insecure_channel(server.grpc_address) as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING
        quick = Call("quick", {"x": np.ones((1, 4), np.float32)})
        for protocol in ("http", "grpc"):
            assert infer(server, quick, protocol).outputs["y"].shape == (1, 3)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_status() == 0


def test_health_watchers_are_told_of_the_drain(repository: Path) -> None:
    """2.7: `Watch` sends NOT_SERVING the moment the drain begins."""
    with running_server(repository, drain_s=300) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
            serving = health_pb2.HealthCheckResponse
            statuses = (answer.status for answer in watch)
            assert serving.SERVING in statuses  # the first, or as soon as health follows readiness
            server.process.send_signal(signal.SIGTERM)
            assert next(statuses) == serving.NOT_SERVING
            watch.cancel()
        server.process.send_signal(signal.SIGINT)
        assert server.exit_status() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_every_accepted_request_is_answered_before_the_exit(
    repository: Path, callers: ThreadPoolExecutor, number: signal.Signals
) -> None:
    """2.7: in-flight and queued requests are finished, over both protocols; exit 0."""
    with running_server(repository) as server:
        futures = start_waiting(server, callers, 8)
        server.process.send_signal(number)
        assert [f.result(60).outputs["y"].tolist() for f in futures] == [[[1.0]]] * 8
        assert server.exit_status() == 0


def test_a_second_signal_ends_the_drain_at_once(
    repository: Path, callers: ThreadPoolExecutor
) -> None:
    """2.7: the rest of the drain is skipped, accepted requests are answered all the same."""
    with running_server(repository, drain_s=300) as server:
        futures = start_waiting(server, callers, 4)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in server.output, "the drain")
        server.process.send_signal(signal.SIGTERM)
        assert [f.result(60).outputs["y"].tolist() for f in futures] == [[[1.0]]] * 4
        assert server.exit_status() == 0


@pytest.mark.parametrize("which", ["http", "grpc", "metrics"])
def test_a_port_that_is_taken_ends_the_start_with_the_reason(repository: Path, which: str) -> None:
    """Exit 1, and one log line that names the address and what it was for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started_server(repository, **{f"{which}_port": port}) as server:
            assert server.exit_status() == 1
            (failed,) = [e for e in server.events if e["event"] == "start_failed"]
            assert failed["level"] == "error"
            assert f"127.0.0.1:{port}" in failed["reason"]
            assert which in failed["reason"].lower()
            assert "Traceback" not in server.output


@pytest.mark.parametrize(
    ("setting", "value"),
    [("http_prot", 9), ("http_port", "nine"), ("device", "tpu"), ("max_queue_size", 0)],
)
def test_a_bad_setting_ends_the_start_with_its_name(
    repository: Path, setting: str, value: object
) -> None:
    """Exit 1, and one log line that names the variable."""
    with started_server(repository, **{setting: value}) as server:
        assert server.exit_status() == 1
        (failed,) = [e for e in server.events if e["event"] == "start_failed"]
        assert f"ATRIL_INFERENCE_{setting.upper()}" in failed["reason"]
        assert "Traceback" not in server.output


def test_a_killed_server_leaves_nothing_that_stops_the_next(repository: Path) -> None:
    """`kill -9` while it serves, then a start on the very same ports."""
    with running_server(repository) as server:
        ports = {f"{name}_port": server.port(name) for name in ("http", "grpc", "metrics")}
        with raw_connection(server.http_url) as connection:
            connection.send(infer_bytes("quick", {"inputs": []}))
            assert connection.read_response().status == 400
            server.process.kill()
            assert server.exit_status() == -signal.SIGKILL
    with running_server(repository, **ports) as server:
        call = Call("quick", {"x": np.ones((1, 4), np.float32)})
        assert infer(server, call, "http").model_name == "quick"


def test_a_server_is_live_while_it_has_no_repository(tmp_path: Path) -> None:
    """2.7: live does not wait for models."""
    with started_server(tmp_path / "nowhere") as server:
        assert httpx.get(f"{server.http_url}/v2/health/live").status_code == 200


def test_overload_is_refused_at_once_and_the_rest_is_answered(
    repository: Path, callers: ThreadPoolExecutor
) -> None:
    """E24: a full queue is 503 with Retry-After, UNAVAILABLE over gRPC, and counts REJECTED."""
    with running_server(repository, max_queue_size=2) as server:
        futures = start_waiting(server, callers, 3, LONG_ROUNDS)
        response = httpx.post(f"{server.http_url}/v2/models/slow/infer", json=SLOW_BODY)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert "Exceeds maximum queue size" in response.json()["error"]
        with pytest.raises(Refusal) as refused:
            infer(server, slow_call(), "grpc")
        assert refused.value.status is grpc.StatusCode.UNAVAILABLE
        assert "Exceeds maximum queue size" in refused.value.text
        assert failures(server, "REJECTED") == 2
        quick = Call("quick", {"x": np.ones((1, 4), np.float32)})
        assert infer(server, quick, "http").model_name == "quick"
        assert [f.result(60).outputs["y"].tolist() for f in futures] == [[[1.0]]] * 3


def _leave_plain(server: ServerProcess, busy: Callable[[], None]) -> None:
    with raw_connection(server.http_url) as connection:
        connection.send(infer_bytes("slow", SLOW_BODY))
        busy()


def _leave_chunked(server: ServerProcess, busy: Callable[[], None]) -> None:
    body = json.dumps(SLOW_BODY).encode()
    with raw_connection(server.http_url) as connection:
        connection.send(
            b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: test\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        )
        busy()


def _leave_grpc(server: ServerProcess, busy: Callable[[], None]) -> None:
    client = Grpc(server.http_url, server.grpc_address)
    future = client.stub.ModelInfer.future(grpc_message(slow_call()))
    busy()
    future.cancel()
    client.close()


@pytest.mark.parametrize(
    "leave",
    [_leave_plain, _leave_chunked, _leave_grpc],
    ids=["http", "http chunked", "grpc"],
)
def test_a_client_that_leaves_takes_its_queued_request_with_it(
    repository: Path,
    callers: ThreadPoolExecutor,
    leave: Callable[[ServerProcess, Callable[[], None]], None],
) -> None:
    """E35, 2.8: a request whose caller went away is not run, and is counted CANCELED."""
    with running_server(repository) as server:
        futures = start_waiting(server, callers, 2, LONG_ROUNDS)
        leave(server, lambda: wait_until(lambda: pending(server) == 2, "the request to be queued"))
        assert [f.result(60).outputs["y"].tolist() for f in futures] == [[[1.0]]] * 2
        wait_until(lambda: failures(server, "CANCELED") == 1, "the cancellation", deadline_s=5)
        assert answered(server) == 2


def test_a_slow_model_does_not_hold_up_a_quick_one(
    repository: Path, callers: ThreadPoolExecutor
) -> None:
    """2.7: models are served side by side; health answers while one of them is busy."""
    with running_server(repository) as server:
        futures = start_waiting(server, callers, 2, LONG_ROUNDS)
        quick = Call("quick", {"x": np.ones((1, 4), np.float32)})
        for protocol in ("http", "grpc"):
            assert infer(server, quick, protocol).model_name == "quick"
        assert httpx.get(f"{server.http_url}/v2/health/ready").status_code == 200
        assert not all(f.done() for f in futures)
        assert [f.result(60).outputs["y"].tolist() for f in futures] == [[[1.0]]] * 2
