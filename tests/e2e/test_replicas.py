"""The gateway over two replicas when one of them goes away."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import httpx
import pytest

from tests.e2e.conftest import Run
from tests.support.processes import ServerProcess, gateway_process, inference_process, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@contextmanager
def asking(server: ServerProcess, digit_png: bytes, callers: int = 4) -> Iterator[list[int]]:
    """Callers that classify the digit again and again; yields the statuses they got."""
    statuses: list[int] = []
    stop = Event()

    def ask() -> None:
        with httpx.Client(base_url=server.http_url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post(
                    "/v1/models/lenet5:classify",
                    content=digit_png,
                    headers={"content-type": "image/png"},
                )
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(callers) as pool:
        asked = [pool.submit(ask) for _ in range(callers)]
        try:
            yield statuses
        finally:
            stop.set()
    for caller in asked:
        caller.result()


def _wait_for_more(statuses: list[int], more: int = 60) -> None:
    before = len(statuses)
    wait_until(lambda: len(statuses) >= before + more, f"{more} more answers")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_request_is_lost_when_a_replica_ends(
    how: signal.Signals, first_run: Run, digit_png: bytes
) -> None:
    """One of two replicas is killed or told to stop under load; every caller gets an answer."""
    first = inference_process(first_run.repository, {"drain_s": 1})
    second = inference_process(first_run.repository, {})
    with (
        running(first),
        running(second),
        running(gateway_process([first, second], {})) as gateway,
        asking(gateway, digit_png) as statuses,
    ):
        _wait_for_more(statuses)
        first.process.send_signal(how)
        first.exit_status(60)
        _wait_for_more(statuses)
    assert set(statuses) == {200}


def test_gateway_without_replicas_says_so_and_recovers(first_run: Run, digit_png: bytes) -> None:
    """With no replica the answer is 503 with Retry-After; when one is back it is the digit."""
    picture = {"content": digit_png, "headers": {"content-type": "image/png"}}
    with running(inference_process(first_run.repository, {})) as replica:
        ports = {f"{name}_port": replica.port(name) for name in ("http", "grpc", "metrics")}
        gateway = gateway_process([replica], {})
        with running(gateway):
            url = f"{gateway.http_url}/v1/models/lenet5:classify"
            ready = f"{gateway.http_url}/v2/health/ready"
            assert httpx.post(url, **picture).status_code == 200
            replica.stop()
            wait_until(lambda: httpx.get(ready).status_code == 503, "not ready")
            refused = httpx.post(url, **picture)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]
            assert httpx.get(f"{gateway.http_url}/v2/health/live").status_code == 200
            with running(inference_process(first_run.repository, ports)):
                wait_until(lambda: httpx.get(ready).status_code == 200, "readiness again")
                assert httpx.post(url, **picture).json()["results"][0]["top"][0]["label"] == "3"
