"""The client side of an HTTP/2 connection without any I/O, on top of what both sides share.

Requests go out through `request`; `receive` returns what happened to them. A stream is forgotten
when the server has ended it.
"""

from typing import Final

from atril_common.h2grpc import frames
from atril_common.h2grpc.connection import CONNECTION_WINDOW, STREAM_WINDOW, Connection
from atril_common.h2grpc.control import MAX_FRAME
from atril_common.h2grpc.events import ResponseReceived, StreamEnded
from atril_common.h2grpc.frames import ErrorCode, Setting
from atril_common.h2grpc.headers import MAX_HEADER_LIST_BYTES
from atril_common.h2grpc.messages import ResponseHead, response_head
from atril_common.h2grpc.outgoing import OUTPUT_BYTES, Stream

_STREAMS_BEFORE_SETTINGS: Final = 100
_LAST_USABLE_ID: Final = frames.MAX_STREAM_ID - 2


class ClientConnection(Connection[ResponseHead]):
    """One connection to a server.

    Attributes:
        max_streams: how many requests the server takes at once.
        going_away: no further request may be sent; those that the server has taken go on.
    """

    def __init__(self) -> None:
        self.max_streams = _STREAMS_BEFORE_SETTINGS
        self.going_away = False
        super().__init__(response_head, max_concurrent_streams=0)
        self._last_id = -1

    @property
    def settled(self) -> bool:
        """Whether the server has said anything yet."""
        return self._settled

    def request(self, block: bytes, data: bytes) -> int:
        """Send a request of one header block and one message; returns its stream."""
        self._last_id += 2
        stream_id = self._last_id
        if stream_id >= _LAST_USABLE_ID:
            self.going_away = True
        stream = self._streams[stream_id] = Stream(stream_id, self._initial_window, STREAM_WINDOW)
        size, limit = len(data), self._max_frame
        if (
            self.held
            or self._table_reset_due
            or self._out_bytes > OUTPUT_BYTES
            or size > min(limit, self._window, stream.send_window)
            or len(block) > limit
        ):
            self.send_headers(stream_id, block)
            stream.trailers = b""  # end the request when its data is out
            self.send_data(stream_id, data)
            return stream_id
        self._window -= size
        pack = frames.frame_head
        self._emit(
            b"".join(
                (
                    pack(len(block), frames.HEADERS, frames.END_HEADERS, stream_id),
                    block,
                    pack(size, frames.DATA, frames.END_STREAM, stream_id),
                    data,
                )
            )
        )
        return stream_id

    def charge(self, price: int) -> None:
        """A server that we chose to call may send what it likes."""

    def _greet(self, max_concurrent_streams: int) -> None:
        del max_concurrent_streams
        self._awaited = b""
        self._emit(
            frames.PREFACE
            + frames.settings(
                {
                    Setting.ENABLE_PUSH: 0,
                    Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    Setting.MAX_FRAME_SIZE: MAX_FRAME,
                    Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
                }
            )
            + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        )

    def _end(self, stream: Stream) -> None:
        """Our side has ended; the answer is still to come."""
        self._emit(frames.frame(frames.DATA, frames.END_STREAM, stream.id))

    def _apply(self, key: int, value: int) -> None:
        if key == Setting.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        else:
            super()._apply(key, value)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        super()._on_data(flags, stream_id, payload)
        if flags & frames.END_STREAM:
            self._forget(stream_id)

    def _read_header_block(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        head = self._decoder.request(block)  # in any case: it may change the table
        if stream_id not in self._streams:
            self._on_closed_stream(stream_id, "HEADERS")
            return
        self._events.append(ResponseReceived(stream_id, head, ended))
        if ended:
            self._forget(stream_id)

    def _on_closed_stream(self, stream_id: int, what: str) -> None:
        """What was under way when we gave a stream up is ignored."""
        self._check_not_idle(stream_id, what)

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        super()._on_goaway(flags, stream_id, payload)
        self.going_away = True
        last_id = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        for refused in [known for known in self._streams if known > last_id]:
            del self._streams[refused]
            self._events.append(StreamEnded(refused, ErrorCode.REFUSED_STREAM))

    def _forget(self, stream_id: int) -> None:
        """The server has ended a stream; what we have not sent is not wanted any more."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.pending:
            self.reset(stream_id, ErrorCode.CANCEL)
        else:
            del self._streams[stream_id]
