"""The server side of an HTTP/2 connection without any I/O (RFC 9113, cleartext, prior knowledge).

Bytes go in through `Connection.receive`, which returns what happened; bytes to send come out of
`take_output`. Errors of the peer end a stream or the connection as the RFC says; nothing raises.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic

from atril_common.h2grpc import frames
from atril_common.h2grpc.control import COSTLY, MAX_FRAME, Control
from atril_common.h2grpc.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    HeadT,
    RequestReceived,
    StreamEnded,
)
from atril_common.h2grpc.frames import ErrorCode, Setting
from atril_common.h2grpc.headers import (
    MAX_HEADER_BLOCK_BYTES,
    MAX_HEADER_LIST_BYTES,
    CompressionError,
    Field,
    HeaderDecoder,
    HeaderListTooLargeError,
    MalformedRequestError,
)
from atril_common.h2grpc.outgoing import ConnectionFailedError, Stream

STREAM_WINDOW: Final = 16 * 1024 * 1024
CONNECTION_WINDOW: Final = 64 * 1024 * 1024
MAX_CONTINUATIONS: Final = 16
"""CONTINUATION frames of one block; more, however small, are a flood (CVE-2024-27316)."""

_Handler = Callable[[Any, int, int, bytes], None]


class Connection(Control, Generic[HeadT]):
    """The receiving half, on top of the sending one.

    Args:
        parse: makes a request's head of its fields; raises `MalformedRequestError`.
        max_concurrent_streams: open requests; further ones are refused and may be retried.
    """

    _handlers: ClassVar[tuple[_Handler, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._handlers = _handlers_of(cls)

    def __init__(
        self, parse: Callable[[list[Field]], HeadT], *, max_concurrent_streams: int
    ) -> None:
        super().__init__()
        self._decoder = HeaderDecoder(parse)
        self._max_streams = max_concurrent_streams
        self._rest = frames.PREFACE[:0]
        self._awaited = frames.PREFACE
        self._events: list[Event[HeadT]] = []
        self._receive_window = CONNECTION_WINDOW
        self._credit_due = 0
        self._block: bytearray | None = None
        self._block_of = (0, False)
        self._block_frames = 0
        self._greet(max_concurrent_streams)

    def _greet(self, max_concurrent_streams: int) -> None:
        """Send what begins our side of the connection."""
        self._emit(
            frames.settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: max_concurrent_streams,
                    Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    Setting.MAX_FRAME_SIZE: MAX_FRAME,
                    Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
                }
            )
            + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        )

    @property
    def header_block_awaited(self) -> int | None:
        """The last request before the header block, or the greeting, that is still incomplete."""
        rest = self._rest
        incomplete = len(rest) > 3 and rest[3] == frames.HEADERS
        if incomplete or self._block is not None or not self._settled:
            return self._last_id
        return None

    def receive(self, data: bytes) -> list[Event[HeadT]]:
        """Take bytes from the peer; returns what happened, in order."""
        events = self._events = []
        if self.closed:
            return events
        try:
            self._parse(self._rest + data if self._rest else data)
        except ConnectionFailedError as err:
            self.fail(err.code, str(err))
        return events

    def consumed(self, stream_id: int, size: int) -> None:
        """Give a stream its window back, lazily."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            return
        stream.credit_due += size
        if stream.credit_due >= STREAM_WINDOW // 2:
            self._emit(frames.window_update(stream_id, stream.credit_due))
            stream.receive_window += stream.credit_due
            stream.credit_due = 0

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection at once."""
        self.closed = True
        self._rest = b""
        self._block = None
        self._streams.clear()
        self._ready.clear()
        self._emit(frames.goaway(self._last_id, code, text))
        self._events.append(ConnectionEnded(code, text))

    def _parse(self, data: bytes) -> None:
        position, end = 0, len(data)
        if self._awaited:
            position = min(len(self._awaited), end)
            if data[:position] != self._awaited[:position]:
                raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            self._awaited = self._awaited[position:]
        while end - position >= frames.FRAME_HEAD_BYTES:
            high, low, kind, flags, stream_id = frames.unpack_frame_head(data, position)
            length = high << 8 | low
            if length > MAX_FRAME:
                raise ConnectionFailedError(
                    ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes, {MAX_FRAME} allowed"
                )
            start = position + frames.FRAME_HEAD_BYTES
            if start + length > end:
                break
            position = start + length
            self._on_frame(kind, flags, stream_id & 0x7FFFFFFF, data[start:position])
        self._rest = data[position:]

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "a header block was not finished")
        if not self._settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
        if kind < len(self._handlers):
            self._handlers[kind](self, flags, stream_id, payload)
        else:
            self.charge(1)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        cost = len(payload)
        self._receive_window -= cost
        if self._receive_window < 0:
            raise ConnectionFailedError(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeded")
        self._credit_due += cost
        if self._credit_due >= CONNECTION_WINDOW // 2:
            self._emit(frames.window_update(0, self._credit_due))
            self._receive_window += self._credit_due
            self._credit_due = 0
        if cost >= 1024:
            self._earn(cost >> 10)
        stream = self._streams.get(stream_id)
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if stream is None:
            self._on_closed_stream(stream_id, "DATA")
            return
        stream.receive_window -= cost
        ended = bool(flags & frames.END_STREAM)
        error = _data_error(stream, len(payload), ended=ended)
        if error is not None:
            self._fail_stream(stream_id, error)
            return
        stream.ended = ended
        if not payload and not ended:
            self.charge(1)
        self._events.append(DataReceived(stream_id, payload, cost, ended))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id % 2 == 0:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short")
            payload = payload[5:]
        ended = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_header_block(stream_id, payload, ended=ended)
        else:
            self._block = bytearray(payload)
            self._block_of = (stream_id, ended)
            self._block_frames = 0

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None or stream_id != self._block_of[0]:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION out of place")
        block += payload
        self._block_frames += 1
        if len(block) > MAX_HEADER_BLOCK_BYTES or self._block_frames > MAX_CONTINUATIONS:
            raise ConnectionFailedError(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_header_block(stream_id, bytes(block), ended=self._block_of[1])

    def _on_header_block(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        try:
            self._read_header_block(stream_id, block, ended=ended)
        except CompressionError as err:
            raise ConnectionFailedError(ErrorCode.COMPRESSION_ERROR, str(err)) from err
        except MalformedRequestError:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR)
        except HeaderListTooLargeError:
            self._fail_stream(stream_id, ErrorCode.ENHANCE_YOUR_CALM)

    def _read_header_block(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        if stream_id > self._last_id:
            self._open(stream_id, block, ended=ended)
        else:
            self._decoder.fields(block)
            self._on_trailers(stream_id, ended=ended)

    def _open(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        self._last_id = stream_id
        if self.final_stream_id is not None or len(self._streams) >= self._max_streams:
            self._decoder.fields(block)
            self.charge(1)
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        head = self._decoder.request(block)
        if ended and head.content_length:
            raise MalformedRequestError("a body was announced")
        stream = Stream(stream_id, self._initial_window, STREAM_WINDOW)
        stream.ended = ended
        stream.body_left = head.content_length
        self._streams[stream_id] = stream
        self._events.append(RequestReceived(stream_id, head, ended))

    def _on_trailers(self, stream_id: int, *, ended: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_closed_stream(stream_id, "HEADERS")
        elif stream.ended:
            self._fail_stream(stream_id, ErrorCode.STREAM_CLOSED)
        elif not ended or stream.body_left:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.ended = True
            self._events.append(DataReceived(stream_id, b"", 0, True))

    def _on_closed_stream(self, stream_id: int, what: str) -> None:
        """What was under way when we ended a stream is ignored; anything else is an error."""
        if stream_id > self._last_id or stream_id % 2 == 0:
            raise ConnectionFailedError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id}"
            )
        if stream_id in self._answered:
            raise ConnectionFailedError(
                ErrorCode.STREAM_CLOSED, f"{what} on closed stream {stream_id}"
            )
        if what == "HEADERS" and stream_id not in self._reset:
            raise ConnectionFailedError(
                ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} after {self._last_id}"
            )
        self.charge(1)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        self._check_not_idle(stream_id, "RST_STREAM")
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            self.charge(1)
            return
        stream.pending.clear()
        self._answered.append(stream_id)
        self._events.append(StreamEnded(stream_id, int.from_bytes(payload, "big")))
        self.charge(COSTLY)

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        self.charge(1)
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream_id:
            self._widen_stream(stream_id, increment)
        elif not increment:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif self._window + increment > frames.MAX_WINDOW:
            raise ConnectionFailedError(ErrorCode.FLOW_CONTROL_ERROR, "connection window overflows")
        else:
            self._window += increment
        self.pump()

    def _widen_stream(self, stream_id: int, increment: int) -> None:
        self._check_not_idle(stream_id, "WINDOW_UPDATE")
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not increment:
            self._fail_stream(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif stream.send_window + increment > frames.MAX_WINDOW:
            self._fail_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream.send_window += increment
            self._queue(stream)

    def _fail_stream(self, stream_id: int, code: ErrorCode) -> None:
        """A rule was broken in one stream: reset it, and tell the layer above if it knows it."""
        known = stream_id in self._streams
        self.reset(stream_id, code)
        if known:
            self._events.append(StreamEnded(stream_id, code))
        self.charge(COSTLY)


def _data_error(stream: Stream, size: int, *, ended: bool) -> ErrorCode | None:
    """What is wrong with a DATA frame of an open stream."""
    if stream.ended:
        return ErrorCode.STREAM_CLOSED
    if stream.receive_window < 0:
        return ErrorCode.FLOW_CONTROL_ERROR
    if stream.body_left is not None:
        stream.body_left -= size
        if stream.body_left < 0 or (ended and stream.body_left):
            return ErrorCode.PROTOCOL_ERROR
    return None


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _handlers_of(kind: "type[Connection[Any]]") -> tuple[_Handler, ...]:
    """What a kind of connection does with each kind of frame, by the frame's number."""
    return (
        kind._on_data,
        kind._on_headers,
        kind._on_priority,
        kind._on_rst_stream,
        kind._on_settings,
        kind._on_push_promise,
        kind._on_ping,
        kind._on_goaway,
        kind._on_window_update,
        kind._on_continuation,
    )


Connection._handlers = _handlers_of(Connection)
