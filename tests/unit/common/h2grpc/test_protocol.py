"""One connection's time limits, buffers and calls, over a transport of our own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import INTERNAL_ERROR, InvalidInputError
from atril_common.h2grpc import frames
from atril_common.h2grpc.connection import Connection
from atril_common.h2grpc.frames import ErrorCode
from atril_common.h2grpc.head import head_parser
from atril_common.h2grpc.headers import Field, HeaderDecoder, encode_headers
from atril_common.h2grpc.messages import RpcStatusError, frame_message
from atril_common.h2grpc.protocol import GrpcProtocol, Limits
from atril_common.h2grpc.rpc import Method, RpcContext, StreamMethod, UnaryMethod
from tests.unit.common.h2grpc.http2_sessions import (
    HELLO,
    REQUEST,
    Frame,
    data,
    request,
    split_frames,
)

PATH = "/test.Echo/Say"


class _Transport(asyncio.Transport):
    """Collects what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.reading = True
        self.ended = self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data
        self.writes += 1

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class _Client:
    """A protocol with its transport, after the greeting."""

    def __init__(
        self, *methods: Method, greet: bool = True, age_s: float | None = None, **limits: Any
    ) -> None:
        values = {"max_message_bytes": 100, "max_buffered_bytes": 1000, "keepalive_idle_s": 60.0}
        self.open = 0
        self.link = GrpcProtocol(
            Connection(head_parser({m.path: m for m in methods}), max_concurrent_streams=100),
            Limits(**{**values, **limits}),
            self,
            age_s,
        )
        self.transport = _Transport()
        self.link.connection_made(self.transport)
        self.now_s = self.link.loop.time()
        self.decoder = HeaderDecoder(dict)
        if greet:
            self.link.data_received(HELLO)
            self.frames()

    def opened(self, link: GrpcProtocol) -> None:
        self.open += 1

    def lost(self, link: GrpcProtocol) -> None:
        self.open -= 1

    def frames(self) -> list[Frame]:
        """What was written since the last call."""
        written, self.transport.written = self.transport.written, b""
        return split_frames(written)

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.link.tick(self.now_s)

    def call(self, body: bytes, *extra: Field, path: str = PATH) -> dict[bytes, bytes]:
        """One request that is answered at once; returns all header fields of the answer."""
        self.send(body, *extra, path=path)
        return self.answer()

    def send(self, body: bytes, *extra: Field, path: str = PATH, stream_id: int = 1) -> None:
        fields = [(n, path.encode() if n == b":path" else v) for n, v in REQUEST]
        block = encode_headers([*fields, *extra])
        self.link.data_received(request(stream_id, block=block) + data(stream_id, body, ended=True))

    def answer(self) -> dict[bytes, bytes]:
        result: dict[bytes, bytes] = {}
        for frame in self.frames():
            if frame.kind == frames.HEADERS:
                result |= self.decoder.request(frame.payload)
            if frame.kind == frames.DATA:
                result[b"body"] = result.get(b"body", b"") + frame.payload
        return result


def _unary(handle: Callable[[Any, RpcContext], Any]) -> UnaryMethod:
    return UnaryMethod(PATH, bytes, handle)


async def _echo(message: bytes, context: RpcContext) -> bytes:
    return message


async def _turns() -> None:
    """Let callbacks and tasks that are ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_finished_future_is_answered_in_the_same_write() -> None:
    """A handler that has the answer at once costs no turn of the loop."""

    def handle(message: bytes, context: RpcContext) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(message * 2)
        return future

    client = _Client(_unary(handle))
    writes = client.transport.writes
    assert client.call(frame_message(b"ab"))[b"body"] == frame_message(b"abab")
    assert client.transport.writes == writes + 1


async def test_answers_of_one_turn_share_a_write() -> None:
    """Futures that are completed together are written together."""
    futures: list[asyncio.Future[bytes]] = []

    def handle(message: bytes, context: RpcContext) -> asyncio.Future[bytes]:
        futures.append(asyncio.get_running_loop().create_future())
        return futures[-1]

    client = _Client(_unary(handle))
    for stream_id in (1, 3, 5):
        client.send(frame_message(b"x"), stream_id=stream_id)
    writes = client.transport.writes
    for future in futures:
        future.set_result(b"y")
    await _turns()
    assert len(client.frames()) == 9
    assert client.transport.writes == writes + 1


@pytest.mark.parametrize(
    ("body", "extra", "status", "text"),
    [
        (b"", (), b"12", b"exactly one request message"),
        (frame_message(b"a") * 2, (), b"12", b"exactly one request message"),
        (frame_message(b"a")[:-1], (), b"13", b"in the middle of a message"),
        (frame_message(b"a" * 101), (), b"8", b"larger than max (101 vs. 100)"),
        (frame_message(b"a"), ((b"grpc-encoding", b"zstd"),), b"12", b"'zstd' is not supported"),
        (frame_message(b"a"), ((b"grpc-timeout", b"soon"),), b"13", b"malformed grpc-timeout"),
        (frame_message(b"a"), ((b"grpc-timeout", b"0n"),), b"4", b"Deadline Exceeded"),
    ],
)
async def test_bad_requests_get_the_status_that_grpc_prescribes(
    body: bytes, extra: tuple[Field, ...], status: bytes, text: bytes
) -> None:
    """Errors of the caller are answered in one block, without a message."""
    client = _Client(_unary(_echo))
    client.send(body, *extra)
    await _turns()
    answer = client.answer()
    assert answer[b"grpc-status"] == status
    assert text in answer[b"grpc-message"]
    assert b"body" not in answer
    assert not client.link.calls


async def test_unknown_method_is_unimplemented() -> None:
    """The text names the path."""
    answer = _Client().call(frame_message(b""), path="/no.Such/Method")
    assert answer[b"grpc-status"] == b"12"
    assert answer[b"grpc-message"] == b"Method not found: /no.Such/Method"


async def test_other_content_types_and_methods_get_http_statuses() -> None:
    """A client that does not speak gRPC gets an answer that it understands."""
    client = _Client(_unary(_echo))
    grpc_web = [*REQUEST[:-1], (b"content-type", b"application/grpc-web")]
    client.link.data_received(request(1, ended=True, block=encode_headers(grpc_web)))
    assert client.answer()[b":status"] == b"415"
    get = [(b":method", b"GET"), *REQUEST[1:]]
    client.link.data_received(request(3, ended=True, block=encode_headers(get)))
    assert client.answer()[b":status"] == b"405"


@pytest.mark.parametrize(
    ("error", "status", "text", "logged"),
    [
        (InvalidInputError("größe"), b"3", b"gr%C3%B6%C3%9Fe", 0),
        (RpcStatusError(grpc.StatusCode.ALREADY_EXISTS, "twice"), b"6", b"twice", 0),
        (ZeroDivisionError("secret"), b"13", INTERNAL_ERROR.encode(), 1),
        (asyncio.CancelledError(), b"1", b"the request was cancelled", 0),
    ],
)
@pytest.mark.parametrize("direct", [True, False])
async def test_errors_of_handlers_become_statuses(
    error: BaseException,
    status: bytes,
    text: bytes,
    logged: int,
    direct: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error has its status; one that nobody foresaw is logged once and not told."""

    async def later(message: bytes, context: RpcContext) -> bytes:
        raise error

    def at_once(message: bytes, context: RpcContext) -> asyncio.Future[bytes]:
        if isinstance(error, Exception):
            raise error
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.cancel()
        return future

    client = _Client(_unary(at_once if direct else later))
    client.send(frame_message(b""))
    await _turns()
    answer = client.answer()
    assert (answer[b"grpc-status"], answer[b"grpc-message"]) == (status, text)
    assert [r.message for r in caplog.records] == ["rpc_failed"] * logged


async def test_metadata_that_cannot_be_sent_is_our_error(caplog: pytest.LogCaptureFixture) -> None:
    """A handler's broken metadata is logged and answered INTERNAL."""

    async def handle(message: bytes, context: RpcContext) -> bytes:
        context.initial_metadata = [("x", "a\r\nb")]
        return message

    client = _Client(_unary(handle))
    client.send(frame_message(b""))
    await _turns()
    assert client.answer()[b"grpc-status"] == b"13"
    assert "rpc_failed" in caplog.text


async def test_reset_and_disconnect_cancel_the_handler() -> None:
    """Nobody computes for a caller who is gone."""
    futures: list[asyncio.Future[bytes]] = []

    def handle(message: bytes, context: RpcContext) -> asyncio.Future[bytes]:
        futures.append(asyncio.get_running_loop().create_future())
        return futures[-1]

    client = _Client(_unary(handle))
    client.send(frame_message(b"x"), stream_id=1)
    client.send(frame_message(b"x"), stream_id=3)
    client.link.data_received(frames.rst_stream(1, ErrorCode.CANCEL))
    assert [future.cancelled() for future in futures] == [True, False]
    client.link.connection_lost(None)
    assert futures[1].cancelled()
    assert (client.open, client.link.calls) == (0, {})


async def test_deadline_ends_a_call_once() -> None:
    """When the deadline has passed, the handler is cancelled and its answer is not sent."""
    started: asyncio.Future[RpcContext] = asyncio.get_running_loop().create_future()

    async def handle(message: bytes, context: RpcContext) -> bytes:
        started.set_result(context)
        await asyncio.Event().wait()
        return b""

    client = _Client(_unary(handle))
    client.send(frame_message(b"x"), (b"grpc-timeout", b"20m"))
    context = await started
    assert context.deadline_s is not None
    while client.link.calls:
        await asyncio.sleep(0)
    await _turns()
    assert client.answer()[b"grpc-status"] == b"4"


async def test_incomplete_requests_are_bounded_together() -> None:
    """A connection cannot make us hold more than its share of unfinished requests."""
    client = _Client(_unary(_echo), max_buffered_bytes=150)
    part = frame_message(b"a" * 90)[:80]
    client.link.data_received(request(1) + data(1, part))
    assert client.frames() == []
    client.link.data_received(request(3) + data(3, part))
    assert client.answer()[b"grpc-status"] == b"8"
    client.link.data_received(data(1, b"a" * 15, ended=True))
    await _turns()
    assert client.answer()[b"body"] == frame_message(b"a" * 90)
    assert client.link.buffered_bytes == 0


async def test_client_that_does_not_read_is_not_read() -> None:
    """While the transport is full, nothing is read and no data is written."""
    client = _Client(_unary(_echo))
    client.send(frame_message(b"x"))
    client.link.pause_writing()
    await _turns()
    assert not client.transport.reading
    assert [f.kind for f in client.frames()] == [frames.HEADERS]
    client.link.resume_writing()
    await _turns()
    assert client.transport.reading
    assert [f.kind for f in client.frames()] == [frames.DATA, frames.HEADERS]


async def test_generator_waits_for_the_window() -> None:
    """A streaming handler is asked for no more than the client's window and one queue."""
    produced = 0

    async def handle(requests: AsyncIterator[Any], context: RpcContext) -> AsyncIterator[bytes]:
        nonlocal produced
        async for _ in requests:
            for _ in range(100):
                produced += 1
                yield b"x" * 10_000

    client = _Client(StreamMethod(PATH, bytes, handle))
    client.send(frame_message(b""))
    for _ in range(100):
        await _turns()
    assert produced < 20
    seen = sum(len(f.payload) for f in client.frames() if f.kind == frames.DATA)
    assert seen == 65_535
    client.link.data_received(frames.window_update(0, 10**7) + frames.window_update(1, 10**7))
    for _ in range(100):
        await _turns()
    assert produced == 100
    seen += sum(len(f.payload) for f in client.frames() if f.kind == frames.DATA)
    assert seen == 100 * 10_005


async def test_stream_gets_no_window_while_its_handler_does_not_read() -> None:
    """Requests that nobody takes stay with the client, beyond one window."""
    release = asyncio.Event()

    async def handle(requests: AsyncIterator[Any], context: RpcContext) -> AsyncIterator[bytes]:
        await release.wait()
        async for _ in requests:
            pass
        yield b"done"

    client = _Client(StreamMethod(PATH, bytes, handle), max_message_bytes=1 << 20)
    client.link.data_received(request(1))
    chunk = data(1, frame_message(b"x" * 65_000))
    for _ in range(250):
        client.link.data_received(chunk)
    updates = {f.stream_id for f in client.frames() if f.kind == frames.WINDOW_UPDATE}
    assert 1 not in updates
    release.set()
    await _turns()
    updates = {f.stream_id for f in client.frames() if f.kind == frames.WINDOW_UPDATE}
    assert 1 in updates


async def test_error_after_messages_comes_in_the_trailers() -> None:
    """What was sent stays sent; the status tells that it is not all."""

    async def handle(requests: AsyncIterator[Any], context: RpcContext) -> AsyncIterator[bytes]:
        yield b"first"
        raise InvalidInputError("no second")

    client = _Client(StreamMethod(PATH, bytes, handle))
    client.send(frame_message(b""))
    await _turns()
    answer = client.answer()
    assert answer[b"body"] == frame_message(b"first")
    assert (answer[b"grpc-status"], answer[b"grpc-message"]) == (b"3", b"no second")


async def test_greeting_and_header_blocks_must_come_in_time() -> None:
    """A connection that says nothing, or half a header block, is closed."""
    half_a_block = HELLO + frames.frame(frames.HEADERS, 0, 1, b"\x82")
    half_a_frame = HELLO + frames.frame(frames.HEADERS, 4, 1, b"\x82" * 9)[:-1]
    for start in (b"", frames.PREFACE, half_a_block, half_a_frame):
        client = _Client(greet=False)
        if start:
            client.link.data_received(start)
        client.pass_s(1)
        assert not client.transport.ended
        client.pass_s(1)
        client.pass_s(11)
        assert client.frames()[-1].kind == frames.GOAWAY
        assert client.transport.ended
        client.pass_s(5)
        assert client.transport.aborted


async def test_requests_that_go_on_need_no_pause() -> None:
    """Half a header block at every look is fine as long as each is finished."""
    client = _Client(_unary(_echo))
    block = frames.header_frames(1, encode_headers(REQUEST), 16_384, end_stream=True)
    for number in range(30):
        stream_id = (2 * number + 1).to_bytes(4, "big")
        whole = block[:5] + stream_id + block[9:]
        client.link.data_received(whole[:20])
        client.pass_s(1)
        client.link.data_received(whole[20:])
    assert not client.transport.ended


async def test_handler_that_returns_nothing_is_our_error(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that is no coroutine function and gives no future is logged, not fatal."""
    client = _Client(_unary(lambda message, context: None))
    assert client.call(frame_message(b""))[b"grpc-status"] == b"13"
    assert "rpc_failed" in caplog.text


async def test_silent_client_is_pinged_and_then_dropped() -> None:
    """A sign of life resets the clock; none at all ends the connection."""
    client = _Client()
    client.pass_s(1)
    client.pass_s(61)
    assert [f.kind for f in client.frames()] == [frames.PING]
    client.link.data_received(frames.ping(b"liveness", ack=True))
    client.pass_s(30)
    client.pass_s(61)
    assert [f.kind for f in client.frames()] == [frames.PING]
    assert not client.transport.aborted
    client.pass_s(30)
    assert client.transport.aborted


async def test_old_connection_is_ended_gracefully() -> None:
    """At its age limit a connection is drained: announced, finished when idle, closed."""
    client = _Client(age_s=100)
    client.pass_s(99)
    assert client.frames() == []
    client.pass_s(2)
    announced, ping = client.frames()
    assert announced.kind == frames.GOAWAY
    client.link.data_received(frames.ping(ping.payload, ack=True))
    assert [f.kind for f in client.frames()] == [frames.GOAWAY]
    assert client.transport.ended


async def test_drain_answers_what_is_under_way() -> None:
    """The connection is closed only after its last answer."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    client = _Client(_unary(lambda message, context: future))
    client.send(frame_message(b"x"))
    client.link.drain()
    client.pass_s(0)
    client.pass_s(3)
    assert [f.kind for f in client.frames()] == [frames.GOAWAY, frames.PING, frames.GOAWAY]
    assert not client.transport.ended
    future.set_result(b"y")
    await _turns()
    assert len(client.frames()) == 3
    assert client.transport.ended


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_arbitrary_bytes_raise_nothing_in_the_protocol(
    received: bytes, greet: bool, as_body: bool
) -> None:
    """Whatever a client sends as frames or as a body, the protocol lives or closes."""

    async def run() -> None:
        client = _Client(_unary(_echo), greet=greet)
        if as_body:
            client.send(received)
        else:
            client.link.data_received(received)
        await _turns()
        client.link.connection_lost(None)
        assert client.link.calls == {}

    asyncio.run(run())
