"""The servers under measurement, each a context manager that yields where it answers."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import httpx

from benchmarks.requests import Addresses

_START_TIMEOUT_S = 60.0
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that processes have used, in user and system mode."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextlib.contextmanager
def embedded(
    repository: Path, core: int | None, settings: Mapping[str, str] = _NO_SETTINGS
) -> Iterator[Addresses]:
    """`atril serve`, on one core or all: the gateway over an engine in the same process."""
    http, grpc, metrics = free_ports(3)
    environment = {
        "ATRIL_GATEWAY_HTTP_PORT": str(http),
        "ATRIL_GATEWAY_GRPC_PORT": str(grpc),
        "ATRIL_GATEWAY_METRICS_PORT": str(metrics),
        "ATRIL_GATEWAY_DRAIN_S": "0",
        "ATRIL_INFERENCE_INTRA_OP_THREADS": "1",
    }
    command = [sys.executable, "-m", "atril_cli", "serve", "--repository", str(repository)]
    addresses = Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    with running(command, environment | settings, core, addresses) as pid:
        yield addresses._replace(pids=(pid,))


@contextlib.contextmanager
def inference(
    repository: Path, core: int | None, settings: Mapping[str, str] = _NO_SETTINGS
) -> Iterator[Addresses]:
    """The inference service, on one core or all."""
    http, grpc, metrics = free_ports(3)
    environment = {
        "ATRIL_INFERENCE_HTTP_PORT": str(http),
        "ATRIL_INFERENCE_GRPC_PORT": str(grpc),
        "ATRIL_INFERENCE_METRICS_PORT": str(metrics),
        "ATRIL_INFERENCE_MODEL_REPOSITORY": str(repository),
        "ATRIL_INFERENCE_INTRA_OP_THREADS": "1",
        "ATRIL_INFERENCE_DRAIN_S": "0",
    }
    addresses = Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    command = [sys.executable, "-m", "atril_inference"]
    with running(command, environment | settings, core, addresses) as pid:
        yield addresses._replace(pids=(pid,))


@contextlib.contextmanager
def gateway(repository: Path, core: int | None, replicas: int = 1) -> Iterator[Addresses]:
    """The gateway over replicas of the inference service, all on one core or on all."""
    http, grpc, metrics = free_ports(3)
    with contextlib.ExitStack() as stack:
        behind = [stack.enter_context(inference(repository, core)) for _ in range(replicas)]
        front = {
            "ATRIL_GATEWAY_HTTP_PORT": str(http),
            "ATRIL_GATEWAY_GRPC_PORT": str(grpc),
            "ATRIL_GATEWAY_METRICS_PORT": str(metrics),
            "ATRIL_GATEWAY_REPLICAS": ",".join(replica.grpc for replica in behind),
            "ATRIL_GATEWAY_DRAIN_S": "0",
        }
        addresses = Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
        command = [sys.executable, "-m", "atril_gateway"]
        pid = stack.enter_context(running(command, front, core, addresses))
        pids = (pid, *(pid for replica in behind for pid in replica.pids))
        yield addresses._replace(pids=pids)


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], core: int | None, addresses: Addresses
) -> Iterator[int]:
    """A server process, pinned to a core if one is given, from ready to ended; yields its id.

    Raises:
        RuntimeError: it ended or was not ready in time; the text has its output.
    """
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with tempfile.TemporaryFile("w+") as output:  # a pipe that nobody reads fills up
        process = subprocess.Popen(
            [*pinned, *command],
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            _wait_until_ready(process, f"http://{addresses.http}/v2/health/ready", output)
            yield process.pid
        finally:
            process.terminate()
            process.wait(timeout=_START_TIMEOUT_S)


def _wait_until_ready(process: subprocess.Popen[str], url: str, output: IO[str]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            output.seek(0)
            raise RuntimeError(f"the server ended: {output.read()}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} was not ready within {_START_TIMEOUT_S:g} s")
