"""grpc.health.v1.Health over one question: is the process ready?"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from atril_common.errors import NotFoundError
from atril_common.h2grpc.rpc import Method, RpcContext, StreamMethod, UnaryMethod

logger = logging.getLogger(__name__)

SERVICE_NAME = "grpc.health.v1.Health"

POLL_S = 0.25
"""How often all watchers together ask."""

_SERVING: int = pb.HealthCheckResponse.SERVING
_NOT_SERVING: int = pb.HealthCheckResponse.NOT_SERVING


class HealthService:
    """Check and Watch; every service is as ready as the process.

    Args:
        ready: the question.
        services: the names that may be asked for; "" is the server as a whole.
        poll_s: period at which watchers are told of a change.
    """

    def __init__(
        self,
        ready: Callable[[], Awaitable[bool]],
        services: Iterable[str],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._ready = ready
        self._services = frozenset(("", SERVICE_NAME, *services))
        self._poll_s = poll_s
        self._changed = asyncio.Event()
        self._status = _NOT_SERVING
        self._watchers = 0
        self._poll: asyncio.Task[None] | None = None

    def methods(self) -> tuple[Method, ...]:
        """The methods to serve."""
        parse = pb.HealthCheckRequest.FromString
        return (
            UnaryMethod(f"/{SERVICE_NAME}/Check", parse, self._check),
            StreamMethod(f"/{SERVICE_NAME}/Watch", parse, self._watch),
        )

    async def _check(self, request: Any, context: RpcContext) -> bytes:
        del context
        if request.service not in self._services:
            raise NotFoundError(f"no service '{request.service}'")
        return _response(await self._ask())

    async def _watch(
        self, requests: AsyncIterator[Any], context: RpcContext
    ) -> AsyncIterator[bytes]:
        del context
        async for request in requests:
            if request.service not in self._services:
                yield _response(pb.HealthCheckResponse.SERVICE_UNKNOWN)
                await asyncio.Event().wait()  # no service is added later: until the caller leaves
            async with aclosing(self._statuses()) as statuses:
                async for status in statuses:
                    yield _response(status)

    async def _statuses(self) -> AsyncGenerator[int, None]:
        """The status now, and each that differs from the one before."""
        if self._poll is None:
            self._status = await self._ask()
        self._watchers += 1
        if self._poll is None:
            self._poll = asyncio.create_task(self._follow())
        try:
            told = None
            while True:
                changed = self._changed
                if self._status != told:
                    told = self._status
                    yield told
                else:
                    await changed.wait()
        finally:
            self._watchers -= 1
            if not self._watchers and self._poll is not None:
                self._poll.cancel()
                self._poll = None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            status = await self._ask()
            if status != self._status:
                self._status = status
                self._changed.set()
                self._changed = asyncio.Event()

    async def _ask(self) -> int:
        try:
            ready = await self._ready()
        except Exception:
            logger.exception("readiness_unknown")
            ready = False
        return _SERVING if ready else _NOT_SERVING


def _response(status: int) -> bytes:
    data: bytes = pb.HealthCheckResponse(status=status).SerializeToString()
    return data
