"""What a server connection sends: answers within the peer's windows, queued where they are full.

No stream may hold up another: queued data goes out one frame of each stream at a time. No more than
`OUTPUT_BYTES` of data waits outside the streams' own queues, so that a transport that cannot keep
up is noticed before everything was copied to it.
"""

from collections import deque

from atril_common.h2grpc import frames
from atril_common.h2grpc.frames import ErrorCode

OUTPUT_BYTES = 256 * 1024
"""Data that `take_output` gives at most at once (and one frame)."""

PENDING_LOW_BYTES = 32 * 1024
"""A stream whose queue falls below this is reported in `drained`."""

BUDGET = 10_000
"""The price of what a peer may do without any useful work; see `Outgoing.charge`."""

BUDGET_PER_ANSWER = 10
_BUDGET_BYTES_SHIFT = 10

_CLOSED_REMEMBERED = 1024


class ConnectionFailedError(Exception):
    """The peer broke a rule; the connection ends with a GOAWAY of this code."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Stream:
    """A stream from its request to the end of its answer."""

    __slots__ = (
        "body_left", "credit_due", "ended", "id", "pending", "pending_bytes", "queued",
        "receive_window", "send_window", "trailers",
    )  # fmt: skip

    def __init__(self, stream_id: int, send_window: int, receive_window: int) -> None:
        self.id = stream_id
        self.ended = False
        self.body_left: int | None = None
        self.receive_window = receive_window
        self.credit_due = 0
        self.send_window = send_window
        self.pending: deque[memoryview] = deque()
        self.pending_bytes = 0
        self.queued = False
        self.trailers: bytes | None = None


class Outgoing:
    """The sending half of a connection.

    Attributes:
        held: no data goes out while the transport is full; control frames still do.
        drained: streams whose queue has room again since the caller last cleared the list.
    """

    def __init__(self) -> None:
        self.held = False
        self.drained: list[int] = []
        self._streams: dict[int, Stream] = {}
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._window = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.DEFAULT_MAX_FRAME
        self._ready: deque[Stream] = deque()
        self._table_reset_due = False
        self._budget = BUDGET
        self._answered: deque[int] = deque(maxlen=_CLOSED_REMEMBERED)
        self._reset: deque[int] = deque(maxlen=_CLOSED_REMEMBERED)

    @property
    def open_streams(self) -> int:
        """Requests that are not answered to the last byte."""
        return len(self._streams)

    def pending_bytes(self, stream_id: int) -> int:
        """Data of a stream that its peer has no window for yet."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.pending_bytes

    def respond(self, stream_id: int, head: bytes, data: bytes, trailers: bytes) -> None:
        """Answer a stream: header block, data, block of trailers. A stream that is gone is not."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size, limit = len(data), self._max_frame
        if (
            self.held
            or self._table_reset_due
            or self._out_bytes > OUTPUT_BYTES
            or not 0 < size <= limit
            or size > self._window
            or size > stream.send_window
            or len(head) > limit
            or len(trailers) > limit
        ):
            self.send_headers(stream_id, head)
            self.send_data(stream_id, data)
            self.end(stream_id, trailers)
            return
        self._window -= size
        pack = frames.frame_head
        answer = b"".join(
            (
                pack(len(head), frames.HEADERS, frames.END_HEADERS, stream_id),
                head,
                pack(size, frames.DATA, 0, stream_id),
                data,
                pack(len(trailers), frames.HEADERS, 0x5, stream_id),
                trailers,
            )
        )
        self._out.append(answer)
        self._out_bytes += len(answer)
        self._close(stream)

    def send_headers(self, stream_id: int, block: bytes) -> None:
        """Begin an answer."""
        if stream_id in self._streams:
            self._emit_headers(stream_id, block, end_stream=False)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Send a part of an answer, or queue what the windows do not allow."""
        stream = self._streams.get(stream_id)
        if stream is None or not data:
            return
        stream.pending.append(memoryview(data))
        stream.pending_bytes += len(data)
        self._earn(BUDGET_PER_ANSWER)
        self._queue(stream)
        self.pump()

    def end(self, stream_id: int, trailers: bytes) -> None:
        """End an answer, once its data is out, with a block of trailers (or of all headers)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.trailers = trailers
        if not stream.pending:
            self._end(stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Give up a stream; what was queued for it is dropped."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            _drop(stream)
        self._emit(frames.rst_stream(stream_id, code))
        self._reset.append(stream_id)

    def pump(self) -> None:
        """Send queued data as far as the windows and the output buffer allow."""
        ready = self._ready
        while ready and self._window > 0 and self._out_bytes < OUTPUT_BYTES and not self.held:
            stream = ready.popleft()
            stream.queued = False
            if stream.pending and stream.send_window > 0:
                self._send_frame(stream)
                self._queue(stream)

    def take_output(self) -> list[bytes | memoryview]:
        """What is to be written now; the caller pumps again if the transport takes more."""
        out = self._out
        self._out = []
        self._out_bytes = 0
        return out

    def refill(self, amount: int) -> None:
        """Let the peer afford more as time passes (PINGs of an idle connection, cancellations)."""
        self._earn(amount)

    def charge(self, price: int) -> None:
        """Make the peer pay for something that costs us and is no work.

        PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM, empty DATA, unknown frames and broken
        requests are legitimate, yet a peer that sends little else only burns our time (rapid reset
        CVE-2023-44487, PING, SETTINGS and empty-frame floods CVE-2019-9512 to 9518). Each has a
        price of 1, or 10 where it makes us begin or look through something; the budget of 10 000
        covers any start of a connection. Every answered request and every message of a stream
        earns 10, every KiB either way 1, every second a further amount (`refill`): whoever
        gets work done never notices, whoever does not is cut off after thousands of frames.

        Raises:
            ConnectionFailedError: the budget is spent.
        """
        self._budget -= price
        if self._budget < 0:
            raise ConnectionFailedError(
                ErrorCode.ENHANCE_YOUR_CALM, "too many frames without useful work"
            )

    def _earn(self, amount: int) -> None:
        self._budget = min(BUDGET, self._budget + amount)

    def _emit(self, data: bytes | memoryview) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _emit_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        if self._table_reset_due:
            # The peer wants a smaller table than HPACK's 4096 bytes; we need none at all, but the
            # next block must say so (RFC 7541, section 4.2).
            self._table_reset_due = False
            block = b"\x20" + block
        self._emit(frames.header_frames(stream_id, block, self._max_frame, end_stream=end_stream))

    def _queue(self, stream: Stream) -> None:
        if not stream.queued and stream.pending and stream.send_window > 0:
            stream.queued = True
            self._ready.append(stream)

    def _send_frame(self, stream: Stream) -> None:
        first = stream.pending[0]
        size = min(len(first), self._max_frame, self._window, stream.send_window)
        self._emit(frames.frame_head(size, frames.DATA, 0, stream.id))
        self._emit(first[:size])
        self._window -= size
        stream.send_window -= size
        self._earn(size >> _BUDGET_BYTES_SHIFT)
        if size < len(first):
            stream.pending[0] = first[size:]
        else:
            stream.pending.popleft()
        before = stream.pending_bytes
        stream.pending_bytes -= size
        if before >= PENDING_LOW_BYTES > stream.pending_bytes:
            self.drained.append(stream.id)
        if not stream.pending and stream.trailers is not None:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._emit_headers(stream.id, stream.trailers or b"", end_stream=True)
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        """Our side has ended; a request that goes on all the same is not wanted any more."""
        self._earn(BUDGET_PER_ANSWER)
        if stream.ended:
            del self._streams[stream.id]
            self._answered.append(stream.id)
        else:
            self.reset(stream.id, ErrorCode.NO_ERROR)

    def _resize_windows(self, initial_window: int) -> None:
        """Apply a new INITIAL_WINDOW_SIZE to every open stream (RFC 9113, section 6.9.2)."""
        change = initial_window - self._initial_window
        self._initial_window = initial_window
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW:
                raise ConnectionFailedError(
                    ErrorCode.FLOW_CONTROL_ERROR, f"window of stream {stream.id} overflows"
                )
            self._queue(stream)


def _drop(stream: Stream) -> None:
    stream.pending.clear()
    stream.pending_bytes = 0
    stream.trailers = None
