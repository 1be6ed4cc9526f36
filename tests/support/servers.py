"""The servers that the conformance tests run against."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import running_server, started_server


@dataclass(frozen=True, kw_only=True)
class OipServer:
    """A server that speaks the protocol."""

    http_url: str
    grpc_address: str
    max_body_bytes: int | None = None
    """Its limit on request bodies, where the tests know it."""


MAX_BODY_BYTES = 8 * 1024 * 1024
"""Limit of the servers that the tests start; above the 4 MiB at which a stock gRPC server stops."""


@contextmanager
def inference(repository: Path, ready: bool) -> Iterator[OipServer]:
    """The inference service itself."""
    start = running_server if ready else started_server
    with start(repository, max_body_bytes=MAX_BODY_BYTES) as server:
        if not ready:
            server.wait_loaded(("empty", ""), ("broken", "1"), ("good", "1"), ("half", "2"))
        yield OipServer(
            http_url=server.http_url,
            grpc_address=server.grpc_address,
            max_body_bytes=MAX_BODY_BYTES,
        )


ServerKind = Callable[[Path, bool], AbstractContextManager[OipServer]]

SERVER_KINDS: dict[str, ServerKind] = {"inference": inference}
"""What is tested, by the id in the test's name.

A kind takes a repository and whether all of it can be served, and yields a server that has loaded
it. To have the whole conformance suite run against another front, add it here.
"""
