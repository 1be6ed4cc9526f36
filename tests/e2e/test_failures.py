"""What callers see when servers end, are killed, restart or are asked for too much."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from tests.support.callers import OK, calling
from tests.support.processes import (
    ServerProcess,
    all_in_one_process,
    gateway_process,
    inference_process,
    running,
)
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import WEIGHTS, matmul, slow
from tests.support.transports import Call
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

X = np.arange(8, dtype=np.float32).reshape(2, 4)
QUICK = Call("quick", {"x": X})
QUICK_ANSWER = {"y": X @ WEIGHTS}
SLOW = Call("slow", {"rounds": np.zeros((1, 1), np.int64), "x": np.ones((1, 1), np.float32)})
SLOW_ANSWER = {"y": np.ones((1, 1), np.float32)}
CALLS = {"quick": (QUICK, QUICK_ANSWER), "slow": (SLOW, SLOW_ANSWER)}
QUEUE = 3


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick model, and one of some tens of milliseconds a request, one request at a time."""
    root = tmp_path_factory.mktemp("repository")
    quick, long = matmul(), slow()
    write_model(root, config_of("quick", quick, max_batch_size=8, queue_delay_us=0), {1: quick})
    config = config_of("slow", long, max_batch_size=1, queue_delay_us=0)
    config.dynamic_batching.default_queue_policy.max_queue_size = QUEUE
    write_model(root, config_of("slow", long, max_batch_size=1, queue_delay_us=0), {1: long})
    config.name = "bounded"
    write_model(root, config, {1: long})
    return root


def ready(server: ServerProcess) -> bool:
    """Whether a balancer would send it requests."""
    return httpx.get(f"{server.http_url}/v2/health/ready").status_code == 200


def answered(replica: ServerProcess) -> float:
    """Requests that the quick model of a replica has answered."""
    return replica.metrics().value("nv_inference_request_success", model="quick", version="1")


@pytest.mark.parametrize("model", ["quick", "slow"])
@pytest.mark.parametrize("kind", ["inference", "embedded", "gateway"])
def test_every_request_is_answered_while_a_server_drains(
    kind: str, model: str, repository: Path
) -> None:
    """2.7: SIGTERM under load; callers who go by readiness lose nothing, over both protocols."""
    call, answer = CALLS[model]
    with running(inference_process(repository, {"drain_s": 300})) as replica:
        make: dict[str, Callable[[], ServerProcess]] = {
            "inference": lambda: replica,
            "embedded": lambda: all_in_one_process("serve", repository, {"drain_s": 300}),
            "gateway": lambda: gateway_process([replica], {"drain_s": 300}),
        }
        with running(make[kind]()) as server:
            with calling(server, call, answer) as load:
                load.wait_for_more()
                server.process.send_signal(signal.SIGTERM)
                wait_until(lambda: not ready(server), "the end of readiness")
                load.wait_for_more()
                load.stop.set()
                server.process.send_signal(signal.SIGTERM)  # enough of the drain
            assert server.exit_status() == 0
    assert load.outcomes == {OK}, load.texts


@pytest.mark.parametrize("model", ["quick", "slow"])
def test_no_request_is_lost_when_a_replica_is_killed(model: str, repository: Path) -> None:
    """`kill -9` of one of two replicas under load: a retry on the other one, not an error."""
    first, second = (inference_process(repository, {}) for _ in range(2))
    with (
        running(first),
        running(second),
        running(gateway_process([first, second], {})) as gateway,
        calling(gateway, *CALLS[model]) as load,
    ):
        load.wait_for_more()
        first.process.kill()
        first.exit_status()
        load.wait_for_more()
    assert load.outcomes == {OK}, load.texts


@pytest.mark.parametrize("drain_s", [0, 1])
def test_a_rolling_restart_loses_nothing(drain_s: int, repository: Path) -> None:
    """SIGTERM of one replica after the other, each back on its ports before the next goes."""
    settings: dict[str, object] = {"drain_s": drain_s}
    with ExitStack() as stack:
        old = [
            stack.enter_context(running(inference_process(repository, settings))) for _ in range(2)
        ]
        gateway = stack.enter_context(running(gateway_process(old, {})))
        restarts = stack.enter_context(ExitStack())  # its replicas end after the callers
        load = stack.enter_context(calling(gateway, QUICK, QUICK_ANSWER))
        for replica in old:
            ports = {f"{name}_port": replica.port(name) for name in ("http", "grpc", "metrics")}
            replica.process.send_signal(signal.SIGTERM)
            assert replica.exit_status(60) == 0
            load.wait_for_more()
            back = inference_process(repository, settings | ports)
            restarts.enter_context(running(back))
            wait_until(lambda back=back: answered(back) > 0, "requests to it")  # type: ignore[misc]
    assert load.outcomes == {OK}, load.texts


@pytest.mark.parametrize("kind", ["inference", "embedded", "gateway"])
def test_too_many_requests_are_answered_or_refused(kind: str, repository: Path) -> None:
    """E24: under more load than the model can take each request is 200 or 503, and none is lost."""
    call = Call("bounded", SLOW.inputs)
    with running(inference_process(repository, {})) as replica:
        make: dict[str, Callable[[], ServerProcess]] = {
            "inference": lambda: replica,
            "embedded": lambda: all_in_one_process("serve", repository, {}),
            "gateway": lambda: gateway_process([replica], {}),
        }
        with running(make[kind]()) as server:
            waiting: list[float] = []
            with calling(server, call, SLOW_ANSWER, callers=8) as load:
                for _ in range(5):
                    load.wait_for_more(40)
                    engine = server if kind == "embedded" else replica
                    waiting.append(
                        engine.metrics().value(
                            "nv_inference_pending_request_count", model="bounded", version="1"
                        )
                    )
            refused = httpx.get(f"{server.http_url}/v2/health/ready")
            assert refused.status_code == 200
    assert max(waiting) <= QUEUE
    assert load.outcomes == {OK, 503, grpc.StatusCode.UNAVAILABLE}, load.texts
    assert all(load.counts[protocol, OK] for protocol in ("http", "grpc"))
    assert all("Exceeds maximum queue size" in text for text in load.texts)
