"""RPCs whose requests or answers are streams: a generator between two flow controls."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc

from atril_common.h2grpc.calls import Call, Link
from atril_common.h2grpc.head import CallHead
from atril_common.h2grpc.headers import encode_headers
from atril_common.h2grpc.messages import (
    OK_BLOCK,
    RpcStatusError,
    frame_message,
    status_fields,
)
from atril_common.h2grpc.rpc import parse_message, status_of

PENDING_HIGH_BYTES = 64 * 1024
"""A generator is not asked for more while so much of its answer waits for the client's window."""

_WAITING_HIGH_BYTES = 1024 * 1024
_WAITING_HIGH_MESSAGES = 256
"""Beyond either, a stream gets no window back until its handler has taken some requests."""


class StreamCall(Call):
    """Any number of messages in, any number out."""

    __slots__ = (
        "_begun", "_credit_held", "_drain", "_ended", "_refused", "_requests", "_waiter",
        "_waiting",
    )  # fmt: skip

    def __init__(self, link: Link, stream_id: int, head: CallHead) -> None:
        super().__init__(link, stream_id, head)
        self._begun = False
        self._ended = False
        self._refused: RpcStatusError | None = None
        self._requests: deque[bytes] = deque()
        self._waiting = 0
        self._credit_held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drain: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Run the handler; it waits for the requests itself."""
        self._future = self._link.loop.create_task(self._run())
        self._future.add_done_callback(self._done)

    def feed(self, data: bytes, cost: int, *, ended: bool) -> None:
        """Hand requests to the handler."""
        try:
            for message in self._messages(data):
                self._requests.append(message)
                self._waiting += len(message)
        except RpcStatusError as err:
            self.fail(err)
            return
        self._ended = ended
        if ended and self._reader is not None and self._reader.buffered_bytes:
            self._refused = RpcStatusError(
                grpc.StatusCode.INTERNAL, "the request ended in the middle of a message"
            )
        self._credit_held += cost
        self._give_credit()
        _wake(self._waiter)

    def drained(self) -> None:
        """Let the handler go on."""
        _wake(self._drain)

    def _give_credit(self) -> None:
        full = len(self._requests) > _WAITING_HIGH_MESSAGES or self._waiting > _WAITING_HIGH_BYTES
        if self._credit_held and not full:
            self._link.connection.consumed(self.stream_id, self._credit_held)
            self._credit_held = 0

    async def _received(self) -> AsyncIterator[Any]:
        while True:
            if self._requests:
                message = self._requests.popleft()
                self._waiting -= len(message)
                if self._credit_held:
                    self._give_credit()
                    self._link.wake()
                yield parse_message(self._method, message)
            elif self._refused is not None:
                raise self._refused
            elif self._ended:
                return
            else:
                self._waiter = self._link.loop.create_future()
                await self._waiter

    async def _run(self) -> None:
        responses = self._method.handle(self._received(), self.context)
        try:
            async for message in responses:
                await self._send(message)
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()

    async def _send(self, message: bytes) -> None:
        connection = self._link.connection
        data = frame_message(message)
        if not self._begun:
            connection.send_headers(self.stream_id, self._response_block())
            self._begun = True
        connection.send_data(self.stream_id, data)
        self._link.wake()
        if connection.pending_bytes(self.stream_id) > PENDING_HIGH_BYTES:
            self._drain = self._link.loop.create_future()
            await self._drain

    def _done(self, future: asyncio.Future[Any]) -> None:
        error = self._error_of(future)
        if self._answered:
            return
        if error is None and not self._begun:
            try:
                self._link.connection.send_headers(self.stream_id, self._response_block())
                self._begun = True
            except ValueError as err:
                error = status_of(err, self._method.path)
        if error is not None:
            self.fail(error)
            return
        self._close()
        self._link.connection.end(self.stream_id, OK_BLOCK)
        self._link.wake()

    def _end_with(self, status: RpcStatusError) -> None:
        if not self._begun:
            super()._end_with(status)
            return
        block = encode_headers(status_fields(status.code, status.details))
        self._link.connection.end(self.stream_id, block)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
