"""A gRPC client on the event loop, without threads and without grpcio: one server, cleartext.

It connects when it is needed, and anew when the server goes away or the connection is lost. What
the server has not begun to process is sent once more; anything else is for the caller to decide.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from typing import Protocol, TypeVar, cast

import grpc

from atril_common.h2grpc.client_connection import ClientConnection
from atril_common.h2grpc.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
)
from atril_common.h2grpc.frames import ErrorCode
from atril_common.h2grpc.headers import encode_headers
from atril_common.h2grpc.messages import (
    PREFIX_BYTES,
    MessageReader,
    ResponseHead,
    RpcStatusError,
    fields_from_metadata,
    frame_message,
    timeout_value,
)
from atril_common.h2grpc.outgoing import OUTPUT_BYTES

_CODE_OF_RESET = {
    ErrorCode.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_MAX_MESSAGE_BYTES = 1 << 31

Metadata = tuple[tuple[str, str], ...]

ResultT = TypeVar("ResultT")


class ConnectionLostError(Exception):
    """The server cannot be reached, or the connection ended before the RPC did."""


class NotProcessedError(ConnectionLostError):
    """As `ConnectionLostError`, and the server has not begun to process the RPC."""


class _Call(Protocol):
    """An RPC under way, as its connection sees it."""

    def on_head(self, head: ResponseHead, *, ended: bool) -> None:
        """The fields that begin or end the answer."""

    def on_data(self, data: bytes, cost: int) -> None:
        """A part of the answer."""

    def on_lost(self, error: Exception) -> None:
        """There will be no answer."""


class _UnaryCall:
    """One message out, one back."""

    __slots__ = ("_chunks", "_link", "_stream_id", "answer")

    def __init__(self, link: "_Link") -> None:
        self._link = link
        self._chunks: list[bytes] = []
        self._stream_id = 0
        self.answer: asyncio.Future[bytes] = link.loop.create_future()

    def begun(self, stream_id: int) -> None:
        self._stream_id = stream_id

    def on_head(self, head: ResponseHead, *, ended: bool) -> None:
        if head.code is grpc.StatusCode.OK:
            self._succeed()
        elif head.code is not None:
            self.on_lost(RpcStatusError(head.code, head.details))
        elif ended:
            self.on_lost(_unfinished())

    def on_data(self, data: bytes, cost: int) -> None:
        self._chunks.append(data)
        self._link.connection.consumed(self._stream_id, cost)

    def on_lost(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def _succeed(self) -> None:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        size = len(body) - PREFIX_BYTES
        if size < 0 or body[0] or int.from_bytes(body[1:PREFIX_BYTES], "big") != size:
            self.on_lost(
                RpcStatusError(grpc.StatusCode.INTERNAL, "the answer is not one plain message")
            )
        elif not self.answer.done():
            self.answer.set_result(body[PREFIX_BYTES:])


class _StreamCall:
    """One message out, any number back; the server gets window as they are taken."""

    def __init__(self, link: "_Link") -> None:
        self._link = link
        self._stream_id = 0
        self._reader = MessageReader(_MAX_MESSAGE_BYTES, "identity")
        self._messages: deque[bytes] = deque()
        self._cost = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def begun(self, stream_id: int) -> None:
        self._stream_id = stream_id

    def on_head(self, head: ResponseHead, *, ended: bool) -> None:
        if head.code is grpc.StatusCode.OK:
            self._end(None)
        elif head.code is not None:
            self._end(RpcStatusError(head.code, head.details))
        elif ended:
            self._end(_unfinished())

    def on_data(self, data: bytes, cost: int) -> None:
        try:
            self._messages += self._reader.feed(data)
        except RpcStatusError as err:
            self._end(err)
        self._cost += cost
        if not self._messages:
            self._give_credit()  # the rest of a message must be able to come
        self._wake()

    def on_lost(self, error: Exception) -> None:
        self._end(error)

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """What comes, until the end or an error."""
        while True:
            while self._messages:
                yield self._messages.popleft()
            self._give_credit()
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            self._waiter = self._link.loop.create_future()
            await self._waiter

    def _give_credit(self) -> None:
        if self._cost:
            self._link.connection.consumed(self._stream_id, self._cost)
            self._cost = 0
            self._link.wake()

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _unfinished() -> RpcStatusError:
    return RpcStatusError(grpc.StatusCode.INTERNAL, "the answer ended without a status")


class _Link(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.connection = ClientConnection()
        self.loop = asyncio.get_running_loop()
        self.calls: dict[int, _Call] = {}
        self._flushing = False
        self._lost = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def usable(self) -> bool:
        """Whether further requests may be sent."""
        return not (self._lost or self.connection.closed or self.connection.going_away)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(OUTPUT_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._flushing = True
        for event in self.connection.receive(data):
            self._on_event(event)
        self._let_in()
        self._flush()

    def pause_writing(self) -> None:
        self.connection.held = True

    def resume_writing(self) -> None:
        self.connection.held = False
        self.connection.pump()
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._fail_all(str(exc) if exc else "the server closed the connection")

    async def room(self) -> None:
        """Wait until the server takes one more request."""
        while self.usable and self.connection.open_streams >= self.connection.max_streams:
            waiter = self.loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def begin(self, call: _UnaryCall | _StreamCall, block: bytes, message: bytes) -> int:
        """Send a request."""
        stream_id = self.connection.request(block, frame_message(message))
        call.begun(stream_id)
        self.calls[stream_id] = call
        self.wake()
        return stream_id

    def give_up(self, stream_id: int) -> None:
        """Tell the server that nobody waits for an answer any more, if there was none yet."""
        if self.calls.pop(stream_id, None) is not None:
            self.connection.reset(stream_id, ErrorCode.CANCEL)
            self._let_in()
            self.wake()

    def close(self) -> None:
        """End at once, with what is under way."""
        if not self._lost:
            self._transport.abort()

    def wake(self) -> None:
        """Write what there is to send, at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _on_event(self, event: Event[ResponseHead]) -> None:
        if isinstance(event, ConnectionEnded):
            self._fail_all(event.text)
            return
        stream_id = event.stream_id
        call = self.calls.get(stream_id)
        if call is None:
            return
        if isinstance(event, DataReceived):
            call.on_data(event.data, event.cost)
            if event.ended:
                del self.calls[stream_id]
                call.on_lost(_unfinished())
        elif isinstance(event, ResponseReceived):
            if event.ended or event.head.code is not None:
                del self.calls[stream_id]
            call.on_head(event.head, ended=event.ended)
        elif isinstance(event, StreamEnded):
            del self.calls[stream_id]
            call.on_lost(_error_of_reset(event.code))

    def _fail_all(self, text: str) -> None:
        """No answer will come; before the server's first word it cannot have processed anything."""
        kind = ConnectionLostError if self.connection.settled else NotProcessedError
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.on_lost(kind(text))
        self._let_in()

    def _let_in(self) -> None:
        room = self.connection.max_streams - self.connection.open_streams
        while self._waiting and (room > 0 or not self.usable):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1

    def _flush(self) -> None:
        self._flushing = False
        if self._lost:
            return
        while out := self.connection.take_output():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            self.connection.pump()
        self.connection.drained.clear()
        if self.connection.closed or (self.connection.going_away and not self.calls):
            self._transport.close()


def _error_of_reset(code: int) -> Exception:
    if code == ErrorCode.REFUSED_STREAM:
        return NotProcessedError("the server refused the request")
    name = ErrorCode(code).name if code in ErrorCode._value2member_map_ else str(code)
    status = _CODE_OF_RESET.get(cast(ErrorCode, code), grpc.StatusCode.INTERNAL)
    return RpcStatusError(status, f"the server ended the stream: {name}")


class GrpcClient:
    """RPCs to one address.

    Args:
        host: name or address.
        port: of the gRPC server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._fields = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", authority.encode()),
        )
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._link: _Link | None = None
        self._old: set[_Link] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    async def unary(self, path: str, message: bytes, timeout_s: float) -> bytes:
        """One message for one.

        Raises:
            RpcStatusError: how the server, or the time, ended it.
            ConnectionLostError: the server cannot be reached, or was lost.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        for last_try in (False, True):
            link = await self._usable_link(deadline_s)
            call = _UnaryCall(link)
            stream_id = link.begin(call, self._block(path, (), timeout_s), message)
            timer = loop.call_at(deadline_s, call.on_lost, _deadline_exceeded())
            try:
                return await call.answer
            except NotProcessedError:
                if last_try:
                    raise
            finally:
                timer.cancel()
                link.give_up(stream_id)
        raise AssertionError("unreachable")

    async def stream(
        self, path: str, message: bytes, timeout_s: float, metadata: Metadata
    ) -> AsyncGenerator[bytes, None]:
        """One message for any number; closing the generator cancels the RPC.

        Raises:
            RpcStatusError: how the server, or the time, ended it.
            ConnectionLostError: the server cannot be reached, or was lost.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        link = await self._usable_link(deadline_s)
        call = _StreamCall(link)
        stream_id = link.begin(call, self._block(path, metadata, timeout_s), message)
        timer = loop.call_at(deadline_s, call.on_lost, _deadline_exceeded())
        try:
            async for answer in call.messages():
                yield answer
        finally:
            timer.cancel()
            link.give_up(stream_id)

    async def close(self) -> None:
        """End at once; RPCs under way are lost."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._connecting
        for link in (self._link, *self._old):
            if link is not None:
                link.close()

    async def _usable_link(self, deadline_s: float) -> _Link:
        while True:
            link = self._link
            if link is None or not link.usable:
                await self._connect(deadline_s)
            elif link.connection.open_streams < link.connection.max_streams:
                return link
            else:
                await _until(deadline_s, link.room())

    async def _connect(self, deadline_s: float) -> None:
        """Make a new connection, one however many RPCs wait for it."""
        if self._closed:
            raise NotProcessedError("the client is closed")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
        try:
            await _until(deadline_s, asyncio.shield(self._connecting))
        except OSError as err:
            raise NotProcessedError(str(err)) from err

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(_Link, self._host, self._port)
        finally:
            self._connecting = None
        if self._link is not None:
            self._old = {old for old in (*self._old, self._link) if old.calls}
        self._link = link

    def _block(self, path: str, metadata: Metadata, timeout_s: float) -> bytes:
        """The header block of a request; all but the timeout is the same every time."""
        block = self._blocks.get((path, metadata))
        if block is None:
            block = self._blocks[path, metadata] = encode_headers(
                (
                    *self._fields,
                    (b":path", path.encode()),
                    (b"content-type", b"application/grpc"),
                    (b"te", b"trailers"),
                    *fields_from_metadata(metadata),
                )
            )
        return block + encode_headers(((b"grpc-timeout", timeout_value(timeout_s)),))


async def _until(deadline_s: float, what: Awaitable[ResultT]) -> ResultT:
    """Wait, but not beyond a point on the loop's clock.

    Raises:
        RpcStatusError: the time has passed.
    """
    left_s = deadline_s - asyncio.get_running_loop().time()
    try:
        return await asyncio.wait_for(what, max(0.0, left_s))
    except TimeoutError as err:
        raise _deadline_exceeded() from err


def _deadline_exceeded() -> RpcStatusError:
    return RpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
