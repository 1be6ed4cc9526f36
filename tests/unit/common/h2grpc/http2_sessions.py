"""Hand-made HTTP/2 sessions, and what a connection answers to them as frames."""

from dataclasses import dataclass
from typing import NamedTuple

from atril_common.h2grpc import frames
from atril_common.h2grpc.connection import Connection
from atril_common.h2grpc.headers import Field, check_request, encode_headers

REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test.Echo/Say"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
BLOCK = encode_headers(REQUEST)
HELLO = frames.PREFACE + frames.settings({})


@dataclass(frozen=True)
class PlainHead:
    """The fields of a request, checked as a server must."""

    fields: tuple[Field, ...]
    content_length: int | None


def parse(fields: list[Field]) -> PlainHead:
    """A head for tests of the connection alone."""
    check_request(fields)
    length = dict(fields).get(b"content-length")
    return PlainHead(tuple(fields), None if length is None else int(length))


def connection(max_streams: int = 100) -> Connection[PlainHead]:
    """A fresh connection that has sent its greeting."""
    fresh = Connection(parse, max_concurrent_streams=max_streams)
    fresh.take_output()
    return fresh


def greeted(max_streams: int = 100, **settings: int) -> Connection[PlainHead]:
    """A connection after both sides' SETTINGS."""
    fresh = connection(max_streams)
    values = {frames.Setting[name.upper()]: value for name, value in settings.items()}
    assert fresh.receive(frames.PREFACE + frames.settings(dict(values))) == []
    fresh.take_output()
    return fresh


def request(stream_id: int, *, ended: bool = False, block: bytes = BLOCK) -> bytes:
    """HEADERS of a request."""
    return frames.header_frames(stream_id, block, 1 << 16, end_stream=ended)


def data(stream_id: int, payload: bytes, *, ended: bool = False) -> bytes:
    """A DATA frame."""
    return frames.frame(frames.DATA, frames.END_STREAM if ended else 0, stream_id, payload)


class Frame(NamedTuple):
    """A frame as it was sent."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def split_frames(output: bytes) -> list[Frame]:
    """Take bytes apart into whole frames."""
    result = []
    while output:
        high, low, kind, flags, stream_id = frames.unpack_frame_head(output, 0)
        end = 9 + (high << 8 | low)
        assert len(output) >= end, "the output ends within a frame"
        result.append(Frame(kind, flags, stream_id, output[9:end]))
        output = output[end:]
    return result


def sent(conn: Connection[PlainHead]) -> list[Frame]:
    """What a connection wants to send, until it has no more."""
    result = []
    while out := conn.take_output():
        result += split_frames(b"".join(out))
        conn.pump()
    return result


def goaway_code(conn: Connection[PlainHead]) -> int | None:
    """Code of the GOAWAY in the output, if there is one."""
    codes = [
        int.from_bytes(frame.payload[4:8], "big")
        for frame in sent(conn)
        if frame.kind == frames.GOAWAY
    ]
    return codes[-1] if codes else None
