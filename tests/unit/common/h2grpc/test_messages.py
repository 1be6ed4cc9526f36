"""gRPC's framing and texts."""

import gzip
import zlib
from urllib.parse import unquote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.h2grpc.headers import MalformedRequestError
from atril_common.h2grpc.messages import (
    MessageReader,
    RpcStatusError,
    fields_from_metadata,
    frame_message,
    metadata_from_fields,
    percent_encode,
    response_block,
    timeout_s,
)


def _compressed(data: bytes) -> bytes:
    return b"\x01" + len(data).to_bytes(4, "big") + data


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 20)))
def test_messages_survive_any_splitting(messages: list[bytes], sizes: list[int]) -> None:
    """However a body is cut into frames, the messages are the same."""
    body = b"".join(map(frame_message, messages))
    reader = MessageReader(100, "identity")
    received, position = [], 0
    for size in [*sizes, len(body)]:
        received += reader.feed(body[position : position + size])
        position += size
    assert received == messages
    assert reader.buffered_bytes == 0


def test_message_over_the_limit_is_refused_by_its_prefix() -> None:
    """The text names both sizes, and the data need not have come."""
    with pytest.raises(RpcStatusError, match=r"^Received message larger than max \(11 vs\. 10\)$"):
        MessageReader(10, "identity").feed(b"\x00\x00\x00\x00\x0b")


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_messages_are_read_up_to_the_limit(encoding, compress) -> None:  # type: ignore[no-untyped-def]
    """Compression is undone, and a small message may not become a large one."""
    assert MessageReader(1000, encoding).feed(_compressed(compress(b"a" * 1000))) == [b"a" * 1000]
    with pytest.raises(RpcStatusError, match="larger than max") as caught:
        MessageReader(1000, encoding).feed(_compressed(compress(b"a" * 1001)))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("identity", _compressed(b"abc")),
        ("gzip", _compressed(b"abc")),
        ("gzip", _compressed(gzip.compress(b"abc")[:-1])),
        ("gzip", _compressed(gzip.compress(b"abc") + b"x")),
        ("gzip", b"\x02\x00\x00\x00\x00"),
    ],
    ids=["no encoding", "no gzip", "truncated", "trailing data", "unknown flag"],
)
def test_broken_compression_is_an_internal_error(encoding: str, body: bytes) -> None:
    """The code that gRPC prescribes for data that cannot be decompressed."""
    with pytest.raises(RpcStatusError) as caught:
        MessageReader(1000, encoding).feed(body)
    assert caught.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"2H", 7200.0),
        (b"3M", 180.0),
        (b"10S", 10.0),
        (b"250m", 0.25),
        (b"7u", 7e-6),
        (b"99999999n", 0.099999999),
        (b"0n", 0.0),
    ],
)
def test_timeouts_are_read_in_every_unit(text: bytes, seconds: float) -> None:
    """Hours, minutes, seconds, milli-, micro- and nanoseconds."""
    assert timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"5", b"S", b"123456789S", b"-1S", b"1s", b"1.5S"])
def test_broken_timeouts_are_refused(text: bytes) -> None:
    """Anything but up to eight digits and a unit is an error."""
    with pytest.raises(RpcStatusError, match="malformed grpc-timeout"):
        timeout_s(text)


def test_status_text_is_escaped_as_grpc_says() -> None:
    """Printable ASCII stays, everything else is escaped byte by byte."""
    assert percent_encode("größer, 100 %\n") == b"gr%C3%B6%C3%9Fer, 100 %25%0A"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_status_text_can_be_read_back(text: str) -> None:
    """Unescaping gives the text back, and only printable ASCII is sent."""
    encoded = percent_encode(text)
    assert unquote(encoded.decode("ascii")) == text
    assert all(0x20 <= byte < 0x7F for byte in encoded)


def test_metadata_is_text_and_binary() -> None:
    """Binary names carry base64 with or without padding; repeated text is joined."""
    metadata = metadata_from_fields(
        [
            (b":path", b"/x"),
            (b"a", b"1"),
            (b"a", b"2"),
            (b"k-bin", b"/wA="),
            (b"l-bin", b"/wA"),
        ]
    )
    assert dict(metadata) == {"a": "1,2", "k-bin": b"\xff\x00", "l-bin": b"\xff\x00"}
    with pytest.raises(MalformedRequestError, match="base64"):
        metadata_from_fields([(b"k-bin", b"!")])


def test_metadata_of_an_answer_is_encoded() -> None:
    """Bytes become base64 without padding."""
    assert fields_from_metadata([("X-Id", "7"), ("k-bin", b"\xff\x00")]) == [
        (b"x-id", b"7"),
        (b"k-bin", b"/wA"),
    ]


@pytest.mark.parametrize("field", [("x y", "1"), ("x", "a\nb"), ("connection", "x"), ("ü", "1")])
def test_metadata_that_cannot_be_sent_is_refused(field: tuple[str, str]) -> None:
    """A handler's mistake does not become a broken header block."""
    with pytest.raises(ValueError, match=r"field|value|belong|codec"):
        response_block([field])
