"""A real server process that is loaded and unloaded while it is asked."""

import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.processes import ServerProcess, running_server
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import add_constant
from tests.support.transports import Answer, Call, Grpc, HttpBinary
from tests.support.waiting import wait_until

RELOADS = 20
CALLERS = 4
CYCLES = 100
X = np.zeros((1, 1), np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Version 1 of `m`, which adds 1."""
    model = add_constant(1)
    write_model(tmp_path, config_of("m", model, max_batch_size=8, queue_delay_us=0), {1: model})
    return tmp_path


def publish(repository: Path, version: int) -> None:
    """A version that adds its number, in its place by one rename."""
    staging = repository / f".staging-{version}"
    staging.mkdir()
    (staging / "model.onnx").write_bytes(add_constant(version).SerializeToString())
    staging.rename(repository / "m" / str(version))


class Load:
    """Callers who ask one after another over both protocols, until they are told to stop."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.answers: list[Answer] = []
        self.failures: list[Exception] = []

    def ask(self, client: HttpBinary | Grpc) -> None:
        """One caller."""
        while not self.stop.is_set():
            try:
                self.answers.append(client.infer(Call("m", {"x": X})))
            except Exception as err:  # noqa: BLE001  # whatever it is, the test tells it
                self.failures.append(err)

    @property
    def versions(self) -> Counter[str]:
        """How many answers each version gave."""
        return Counter(answer.model_version for answer in self.answers)


@contextmanager
def under_load(server: ServerProcess) -> Iterator[Load]:
    """Concurrent callers; at the end not one of their requests may have failed."""
    load = Load()
    clients = [
        kind(server.http_url, server.grpc_address)
        for kind in itertools.islice(itertools.cycle((HttpBinary, Grpc)), CALLERS)
    ]
    with ThreadPoolExecutor(CALLERS) as pool:
        try:
            done = [pool.submit(load.ask, client) for client in clients]
            wait_until(lambda: len(load.answers) >= CALLERS, "the first answers")
            yield load
        finally:
            load.stop.set()
    for caller, client in zip(done, clients, strict=True):
        caller.result()
        client.close()
    assert load.failures == []
    for answer in load.answers:
        assert answer.outputs["y"].tolist() == [[float(answer.model_version or 0)]]


def test_twenty_reloads_on_request_lose_no_request(repository: Path) -> None:
    """2.6: not one request fails, and each is answered whole by one version."""
    with (
        running_server(repository, model_control_mode="explicit", load_models="*") as server,
        under_load(server) as load,
    ):
        for version in range(2, RELOADS + 2):
            publish(repository, version)
            url = f"{server.http_url}/v2/repository/models/m/load"
            assert httpx.post(url, timeout=60).status_code == 200
            wait_until(lambda v=version: load.versions[str(v)] > 0, f"version {version}")  # type: ignore[misc]
    assert len(load.versions) >= RELOADS + 1


def test_twenty_publications_are_followed_without_losing_a_request(repository: Path) -> None:
    """2.6: the same under polling, with a broken version between every two good ones."""
    settings = {"model_control_mode": "poll", "poll_interval_s": 0.1, "trial_limit_s": 0}
    with running_server(repository, **settings) as server, under_load(server) as load:
        for version in range(2, RELOADS * 2 + 2, 2):
            publish(repository, version)
            wait_until(lambda v=version: load.versions[str(v)] > 0, f"version {version}")  # type: ignore[misc]
            broken = repository / f".staging-{version + 1}"
            broken.mkdir()
            (broken / "model.onnx").write_bytes(b"not onnx")
            broken.rename(repository / "m" / str(version + 1))
            wait_until(lambda v=version: state(server, v + 1) == "UNAVAILABLE", "the reason")  # type: ignore[misc]
            assert httpx.get(f"{server.http_url}/v2/health/ready").status_code == 200
            shutil.rmtree(repository / "m" / str(version + 1))


def state(server: ServerProcess, version: int) -> str:
    """What the index says of a version of `m`."""
    entries = httpx.post(f"{server.http_url}/v2/repository/index").json()
    found = [e.get("state", "") for e in entries if e.get("version") == str(version)]
    return found[0] if found else ""


def test_a_hundred_loads_and_unloads_leave_the_process_as_it_was(repository: Path) -> None:
    """No thread, no file and no session is left; resident memory comes to rest."""
    with running_server(
        repository, model_control_mode="explicit", load_models="*", trial_limit_s=0
    ) as server:
        base = f"{server.http_url}/v2/repository/models/m"

        def cycle(times: int) -> tuple[int, int, int]:
            with httpx.Client(timeout=60) as client:
                for _ in range(times):
                    assert client.post(f"{base}/unload").status_code == 200
                    assert client.post(f"{base}/load").status_code == 200
            return _resources(server.process.pid)

        threads, files, memory_kib = cycle(CYCLES // 2)
        threads_after, files_after, memory_after_kib = cycle(CYCLES)
        # The pool that loads may still start its last threads.
        assert threads_after <= threads + 4
        assert files_after <= files + 4
        assert memory_after_kib - memory_kib < 100 * CYCLES, "a session takes more than 100 KiB"


def _resources(pid: int) -> tuple[int, int, int]:
    """Threads, open files and resident memory (KiB) of a process."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    files = sum(1 for _ in (process / "fd").iterdir())
    return int(status["Threads"]), files, int(status["VmRSS"].split()[0])
