"""The servers under measurement, each a context manager that yields where it answers."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.requests import Addresses

_START_TIMEOUT_S = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextlib.contextmanager
def embedded(repository: Path, core: int) -> Iterator[Addresses]:
    """`atril serve` on one core: the gateway over an engine in the same process."""
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
    with running(command, environment, core, addresses):
        yield addresses


@contextlib.contextmanager
def gateway(repository: Path, core: int) -> Iterator[Addresses]:
    """The gateway over one replica of the inference service, both on one core."""
    http, grpc, metrics, *replica = free_ports(6)
    names = ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT")
    inference = {
        f"ATRIL_INFERENCE_{name}": str(port) for name, port in zip(names, replica, strict=True)
    } | {
        "ATRIL_INFERENCE_MODEL_REPOSITORY": str(repository),
        "ATRIL_INFERENCE_INTRA_OP_THREADS": "1",
        "ATRIL_INFERENCE_DRAIN_S": "0",
    }
    front = {
        "ATRIL_GATEWAY_HTTP_PORT": str(http),
        "ATRIL_GATEWAY_GRPC_PORT": str(grpc),
        "ATRIL_GATEWAY_METRICS_PORT": str(metrics),
        "ATRIL_GATEWAY_REPLICAS": f"127.0.0.1:{replica[1]}",
        "ATRIL_GATEWAY_DRAIN_S": "0",
    }
    behind = Addresses(f"127.0.0.1:{replica[0]}", f"127.0.0.1:{replica[1]}")
    addresses = Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    with (
        running([sys.executable, "-m", "atril_inference"], inference, core, behind),
        running([sys.executable, "-m", "atril_gateway"], front, core, addresses),
    ):
        yield addresses


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], core: int, addresses: Addresses
) -> Iterator[None]:
    """A server process pinned to a core, from ready to ended.

    Raises:
        RuntimeError: it ended or was not ready in time; the text has its output.
    """
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_until_ready(process, f"http://{addresses.http}/v2/health/ready")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=_START_TIMEOUT_S)


def _wait_until_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {process.communicate()[0]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} was not ready within {_START_TIMEOUT_S:g} s")
