"""The frames that concern the connection as a whole: SETTINGS, PING, GOAWAY, WINDOW_UPDATE."""

from typing import Final

from atril_common.h2grpc import frames
from atril_common.h2grpc.frames import ErrorCode, Setting
from atril_common.h2grpc.outgoing import ConnectionFailedError, Outgoing

MAX_FRAME: Final = 64 * 1024
"""Frames that we take, and send where the peer takes them."""

COSTLY: Final = 10
"""The price of what makes us begin or look through something; see `Outgoing.charge`."""

_DRAIN_PING: Final = b"draining"


class Control(Outgoing):
    """Connection-level frames, between the sending and the receiving half.

    Attributes:
        closed: the connection is over.
        final_stream_id: the last request taken, once the final GOAWAY is out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.final_stream_id: int | None = None
        self._settled = False
        self._last_id = 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._emit(frames.ping(b"liveness"))

    def drain(self) -> None:
        """Announce the end; requests under way to us are still taken until `finish`."""
        self._emit(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self._emit(frames.ping(_DRAIN_PING))

    def finish(self) -> None:
        """Take no further requests; called when the peer has seen `drain`."""
        if self.final_stream_id is None and not self.closed:
            self.final_stream_id = self._last_id
            self._emit(frames.goaway(self._last_id, ErrorCode.NO_ERROR))

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags
        if stream_id == 0:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
        self.charge(1)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        if flags & frames.ACK:
            self.charge(1)
            return
        self._settled = True
        self.charge(COSTLY + len(payload) // 6)
        for key, value in frames.settings_from_payload(payload):
            self._apply(key, value)
        self._emit(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.pump()  # after that: until it sees the ACK the peer counts by the old windows

    def _apply(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFailedError(ErrorCode.FLOW_CONTROL_ERROR, f"window of {value}")
            self.charge(len(self._streams) // 16)
            self._resize_windows(value)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"frames of {value}")
            self._max_frame = min(value, MAX_FRAME)
        elif key == Setting.HEADER_TABLE_SIZE:
            self._table_reset_due |= value < 4096
        elif key == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags, stream_id, payload
        raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "clients do not push")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "PING has eight bytes")
        self.charge(1)
        if not flags & frames.ACK:
            self._emit(frames.ping(payload, ack=True))
        elif payload == _DRAIN_PING:
            self.finish()

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags
        if stream_id:
            raise ConnectionFailedError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFailedError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has eight bytes")
        self.charge(1)

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id == 0 or stream_id % 2 == 0 or stream_id > self._last_id:
            raise ConnectionFailedError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id}"
            )
