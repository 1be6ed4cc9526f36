"""RPCs under way: from the parts of a request to its handler, and back to the stream."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import grpc

from atril_common.h2grpc.connection import Connection
from atril_common.h2grpc.head import CallHead, RequestHead
from atril_common.h2grpc.headers import encode_headers
from atril_common.h2grpc.messages import (
    OK_BLOCK,
    PREFIX_BYTES,
    RESPONSE_BLOCK,
    MessageReader,
    RpcStatusError,
    frame_message,
    response_block,
    status_fields,
)
from atril_common.h2grpc.rpc import RpcContext, parse_message, status_of


class Link(Protocol):
    """The connection to a client, as its calls use it.

    Attributes:
        calls: the calls under way, by stream.
        buffered_bytes: incomplete requests of all calls together.
    """

    connection: Connection[RequestHead]
    loop: asyncio.AbstractEventLoop
    peer: str
    max_message_bytes: int
    max_buffered_bytes: int
    buffered_bytes: int
    calls: "dict[int, Call]"

    def wake(self) -> None:
        """Write what the connection has to send, at the end of this turn of the loop."""


class Call(ABC):
    """What is common to every RPC: it is answered once, by whoever comes first."""

    __slots__ = (
        "_answered", "_buffered", "_future", "_link", "_method", "_reader", "_timer", "context",
        "head", "stream_id",
    )  # fmt: skip

    def __init__(self, link: Link, stream_id: int, head: CallHead) -> None:
        self._link = link
        self._method: Any = head.method
        self._answered = False
        self._buffered = 0
        self._future: asyncio.Future[Any] | None = None
        self._reader: MessageReader | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.head = head
        self.stream_id = stream_id
        deadline_s = None
        if head.timeout_s is not None:
            deadline_s = link.loop.time() + head.timeout_s
            self._timer = link.loop.call_at(deadline_s, self._expire)
        self.context = RpcContext(head.metadata, deadline_s, link.peer)

    @abstractmethod
    def feed(self, data: bytes, cost: int, *, ended: bool) -> None:
        """Take a part of the request; `cost` goes back to the stream's window when it is read."""

    def drained(self) -> None:  # noqa: B027  # nothing to do for most
        """The stream's queue has room again."""

    def cancel(self) -> None:
        """The caller went away: nothing can be answered."""
        if not self._answered:
            self._close()
        if self._future is not None:
            self._future.cancel()

    def fail(self, status: RpcStatusError) -> None:
        """Answer with an error and stop the handler."""
        if not self._answered:
            self._close()
            self._end_with(status)
            self._link.wake()
        if self._future is not None:
            self._future.cancel()

    def _end_with(self, status: RpcStatusError) -> None:
        """An answer that is nothing but an error: headers and trailers in one block."""
        trailers = encode_headers(status_fields(status.code, status.details))
        try:
            head = self._response_block()
        except ValueError as err:
            status_of(err, self._method.path)
            head = RESPONSE_BLOCK
        self._link.connection.end(self.stream_id, head + trailers)

    def _response_block(self) -> bytes:
        metadata = self.context.initial_metadata
        return RESPONSE_BLOCK if metadata is None else response_block(metadata)

    def _close(self) -> None:
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        link = self._link
        link.buffered_bytes -= self._buffered
        del link.calls[self.stream_id]

    def _expire(self) -> None:
        self.fail(RpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _error_of(self, future: asyncio.Future[Any]) -> RpcStatusError | None:
        """How a handler failed, if it did; without an answer to send it only reaches the log."""
        if future.cancelled():
            return status_of(asyncio.CancelledError(), self._method.path)
        error = future.exception()
        return None if error is None else status_of(error, self._method.path)

    def _messages(self, data: bytes) -> Iterator[bytes]:
        """The messages that a part completes; what stays incomplete is counted.

        Raises:
            RpcStatusError: a message or the incomplete requests together are too large.
        """
        if self._reader is None:
            limit = self._method.max_message_bytes or self._link.max_message_bytes
            self._reader = MessageReader(limit, self.head.encoding)
        yield from self._reader.feed(data)
        self._count(self._reader.buffered_bytes)

    def _count(self, size: int) -> None:
        link = self._link
        link.buffered_bytes += size - self._buffered
        self._buffered = size
        limit = link.max_buffered_bytes + (self._method.max_message_bytes or 0)
        if link.buffered_bytes > limit:
            raise RpcStatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"incomplete requests of the connection exceed {limit} bytes",
            )


class UnaryCall(Call):
    """One message in, one out."""

    __slots__ = ("_message",)

    def __init__(self, link: Link, stream_id: int, head: CallHead) -> None:
        super().__init__(link, stream_id, head)
        self._message: bytes | None = None

    def feed(self, data: bytes, cost: int, *, ended: bool) -> None:
        """Collect the request; run it when its end is known."""
        size = len(data) - PREFIX_BYTES
        if (
            ended
            and self._reader is None
            and 0 <= size <= self._link.max_message_bytes
            and data.startswith(b"\x00")
            and int.from_bytes(data[1:PREFIX_BYTES], "big") == size
        ):
            self._start(data[PREFIX_BYTES:])
            return
        try:
            self._collect(data)
            if ended:
                self._start(self._only_message())
            else:
                self._link.connection.consumed(self.stream_id, cost)
        except RpcStatusError as err:
            self.fail(err)

    def _collect(self, data: bytes) -> None:
        for message in self._messages(data):
            if self._message is not None:
                raise self._cardinality()
            self._message = message
        if self._message is not None:
            self._count(self._buffered + len(self._message))

    def _only_message(self) -> bytes:
        """The request, complete and alone.

        Raises:
            RpcStatusError: with the code that gRPC prescribes for the violation.
        """
        if self._reader is not None and self._reader.buffered_bytes:
            raise RpcStatusError(
                grpc.StatusCode.INTERNAL, "the request ended in the middle of a message"
            )
        if self._message is None:
            raise self._cardinality()
        return self._message

    def _cardinality(self) -> RpcStatusError:
        return RpcStatusError(
            grpc.StatusCode.UNIMPLEMENTED,
            f'"{self._method.path}" requires exactly one request message.',
        )

    def _start(self, message: bytes) -> None:
        method = self._method
        try:
            answer = method.handle(parse_message(method, message), self.context)
            future = (
                answer
                if isinstance(answer, asyncio.Future)
                else asyncio.ensure_future(answer, loop=self._link.loop)
            )
        except Exception as err:  # noqa: BLE001  # answered, and logged if nobody foresaw it
            self.fail(status_of(err, method.path))
            return
        self._message = None
        self._future = future
        if future.done():
            self._done(future)
        else:
            future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[bytes]) -> None:
        error = self._error_of(future)
        if self._answered:
            return
        if error is not None:
            self.fail(error)
            return
        try:
            head = self._response_block()
            body = frame_message(future.result())
        except Exception as err:  # noqa: BLE001  # a handler's answer or metadata cannot be sent
            self.fail(status_of(err, self._method.path))
            return
        self._close()
        self._link.connection.respond(self.stream_id, head, body, OK_BLOCK)
        self._link.wake()
