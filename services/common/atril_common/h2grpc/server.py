"""A gRPC server on the event loop, without threads and without grpcio."""

import asyncio
import random
import socket
from collections.abc import Iterable

from atril_common.h2grpc.connection import Connection
from atril_common.h2grpc.head import head_parser
from atril_common.h2grpc.protocol import GrpcProtocol, Limits
from atril_common.h2grpc.rpc import Method

_TICK_S = 1.0
_MIN_BUFFERED_BYTES = 256 * 1024 * 1024
_AGE_JITTER = 0.1
_BACKLOG = 2048
_CLOSE_S = 1.0


class GrpcServer:
    """Serves methods over cleartext HTTP/2 with prior knowledge.

    Args:
        methods: what is served; a path may occur once.
        max_message_bytes: of one request message; a larger one is answered RESOURCE_EXHAUSTED.
        max_concurrent_streams: RPCs under way on one connection; the rest waits in the client.
        max_connection_age_s: after about this long (10 % either way, so that clients do not all
            come back at once) a connection is ended gracefully and the client makes a new one.
        keepalive_idle_s: a silent client is asked for a sign of life after this long.

    Raises:
        ValueError: two methods have one path.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        max_message_bytes: int,
        max_concurrent_streams: int = 1024,
        max_connection_age_s: float | None = None,
        keepalive_idle_s: float | None = 60.0,
    ) -> None:
        self._methods: dict[str, Method] = {}
        for method in methods:
            if method.path in self._methods:
                raise ValueError(f"two methods have the path {method.path}")
            self._methods[method.path] = method
        self._parse = head_parser(self._methods)
        self._limits = Limits(
            max_message_bytes=max_message_bytes,
            max_buffered_bytes=max(_MIN_BUFFERED_BYTES, 2 * max_message_bytes),
            keepalive_idle_s=keepalive_idle_s,
        )
        self._max_streams = max_concurrent_streams
        self._max_age_s = max_connection_age_s
        self._links: set[GrpcProtocol] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket, which the server closes when it stops."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
        self._ticker = loop.create_task(self._tick())

    async def stop(self, grace_s: float) -> None:
        """Refuse new requests, answer what is under way for so long, then cancel the rest."""
        self._stopping = True
        self._server.close()
        for link in list(self._links):
            link.drain()
        if not await self._all_lost(grace_s):
            for link in list(self._links):
                link.abandon()
            if not await self._all_lost(_CLOSE_S):
                for link in list(self._links):
                    link.abort()
                await self._all_lost(_CLOSE_S)
        self._ticker.cancel()
        await self._server.wait_closed()

    def opened(self, link: GrpcProtocol) -> None:
        """Keep a connection; one that comes while the server stops is told so at once."""
        self._links.add(link)
        self._empty.clear()
        if self._stopping:
            link.drain()

    def lost(self, link: GrpcProtocol) -> None:
        """Forget a connection."""
        self._links.discard(link)
        if not self._links:
            self._empty.set()

    def _connection(self) -> GrpcProtocol:
        connection = Connection(self._parse, max_concurrent_streams=self._max_streams)
        age_s = self._max_age_s
        if age_s is not None:
            age_s *= random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)
        return GrpcProtocol(connection, self._limits, self, age_s)

    async def _all_lost(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_S)
            for link in list(self._links):
                link.tick(loop.time())
