"""HTTP/2 frames as bytes (RFC 9113, sections 4, 6 and 7)."""

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

MAX_STREAM_ID: Final = 2**31 - 1
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_MAX_FRAME: Final = 16_384
LARGEST_MAX_FRAME: Final = 2**24 - 1

FRAME_HEAD_BYTES: Final = 9

unpack_frame_head = struct.Struct(">HBBBL").unpack_from
"""Length (upper 16 bits, lower 8 bits), type, flags, stream id with its reserved bit."""

_pack_frame_head = struct.Struct(">HBBBL").pack
_unpack_settings = struct.Struct(">HL").iter_unpack


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """The parameters of a SETTINGS frame that this server knows."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a frame's payload."""
    return _pack_frame_head(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return frame_head(len(payload), kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(struct.pack(">HL", key, value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def settings_from_payload(payload: bytes) -> list[tuple[int, int]]:
    """The parameters of a SETTINGS payload whose length is a multiple of six, in order."""
    return list(_unpack_settings(payload))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: int, text: str = "") -> bytes:
    """A GOAWAY frame with its reason as debug data."""
    payload = struct.pack(">LL", last_stream_id, code) + text.encode()
    return frame(GOAWAY, 0, 0, payload)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """A PING frame; the payload has eight bytes."""
    return frame(PING, ACK if ack else 0, 0, payload)


def header_frames(stream_id: int, block: bytes, max_frame: int, *, end_stream: bool) -> bytes:
    """A header block as HEADERS and, where it is larger than a frame, CONTINUATION."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[start : start + max_frame] for start in range(0, len(block), max_frame)]
    first = frame(HEADERS, flags, stream_id, pieces[0])
    middle = [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    return b"".join((first, *middle, frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1])))
