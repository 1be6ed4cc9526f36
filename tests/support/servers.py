"""The servers that the conformance tests run against."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import (
    ServerProcess,
    all_in_one_process,
    gateway_process,
    inference_process,
    started,
)


@dataclass(frozen=True, kw_only=True)
class OipServer:
    """A server that speaks the protocol."""

    http_url: str
    grpc_address: str
    max_body_bytes: int | None = None
    """Its limit on request bodies, where the tests know it."""


MAX_BODY_BYTES = 8 * 1024 * 1024
"""Limit of the servers that the tests start; above the 4 MiB at which a stock gRPC server stops."""


_UNREADY = (("empty", ""), ("broken", "1"), ("good", "1"), ("half", "2"))
"""What the repository that cannot be served whole holds, see `write_unready_repository`."""


_EXPLICIT: dict[str, object] = {"model_control_mode": "explicit", "load_models": "*"}
"""Everything is loaded at the start, and may be unloaded and loaded on request."""


def _settings(explicit: bool) -> dict[str, object]:
    return {"max_body_bytes": MAX_BODY_BYTES} | (_EXPLICIT if explicit else {})


@contextmanager
def inference(repository: Path, ready: bool) -> Iterator[OipServer]:
    """The inference service itself."""
    server = inference_process(repository, _settings(ready))
    with _loaded(server, ready):
        yield _oip(server)


@contextmanager
def embedded(repository: Path, ready: bool) -> Iterator[OipServer]:
    """`atril serve`: the gateway over an engine in the same process."""
    server = all_in_one_process(
        "serve",
        repository,
        {"max_body_bytes": MAX_BODY_BYTES},
        _EXPLICIT if ready else {},
    )
    with _loaded(server, ready):
        yield _oip(server)


@contextmanager
def two_replicas(repository: Path, ready: bool) -> Iterator[OipServer]:
    """The gateway over two replicas of the inference service."""
    with ExitStack() as stack:
        replicas = []
        for _ in range(2):
            replica = inference_process(repository, _settings(ready))
            replicas.append(stack.enter_context(_loaded(replica, ready)))
        server = gateway_process(replicas, {"max_body_bytes": MAX_BODY_BYTES})
        stack.enter_context(_loaded(server, ready))
        yield _oip(server)


@contextmanager
def _loaded(server: ServerProcess, ready: bool) -> Iterator[ServerProcess]:
    with started(server):
        if ready:
            server.wait_ready()
        else:
            server.wait_loaded(*_UNREADY)
        yield server


def _oip(server: ServerProcess) -> OipServer:
    return OipServer(
        http_url=server.http_url,
        grpc_address=server.grpc_address,
        max_body_bytes=MAX_BODY_BYTES,
    )


ServerKind = Callable[[Path, bool], AbstractContextManager[OipServer]]

SERVER_KINDS: dict[str, ServerKind] = {
    "inference": inference,
    "embedded": embedded,
    "two-replicas": two_replicas,
}
"""What is tested, by the id in the test's name.

A kind takes a repository and whether all of it can be served, and yields a server that has loaded
it; if so it is under explicit control, else it follows the repository. To have the whole
conformance suite run against another front, add it here.
"""
