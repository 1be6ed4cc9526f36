"""Header blocks against RFC 7541's rules and the hpack library's own encoder."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from atril_common.h2grpc.headers import (
    CompressionError,
    Field,
    HeaderDecoder,
    encode_headers,
)

NAMES = st.sampled_from([b":path", b"te", b"user-agent", b"x-a", b"x-b-bin"])
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=8)


class _Recorder:
    """Counts how often a block was parsed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, fields: list[Field]) -> tuple[Field, ...]:
        self.calls += 1
        return tuple(fields)


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, 0, 100, 4096]))))
def test_decoder_agrees_with_hpacks_encoder(
    blocks: list[tuple[list[Field], bool, int | None]],
) -> None:
    """Whatever the encoder does with its table, the cache never gives an old answer."""
    encoder, decoder = Encoder(), HeaderDecoder(tuple)
    for fields, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        expected = tuple((bytes(name), bytes(value)) for name, value in fields)
        assert decoder.request(encoder.encode(fields, huffman=huffman)) == expected
        assert decoder.request(encoder.encode(fields, huffman=huffman)) == expected


@given(FIELDS)
def test_encoded_headers_are_read_by_the_hpack_library(fields: list[Field]) -> None:
    """Our literals are HPACK and leave no entry in the peer's table."""
    decoder = Decoder()
    decoded = decoder.decode(encode_headers(fields), raw=True)
    assert [tuple(field) for field in decoded] == fields
    assert len(decoder.header_table.dynamic_entries) == 0


def test_repeated_block_is_parsed_once() -> None:
    """A block of indexed fields costs one parse while the table stays as it is."""
    parse = _Recorder()
    decoder = HeaderDecoder(parse)
    encoder = Encoder()
    fields = [(b"x-a", b"1"), (b"x-b", b"2")]
    for _ in range(5):
        assert decoder.request(encoder.encode(fields)) == tuple(fields)
    assert parse.calls == 2  # with literals, then indexed


def test_changed_table_forgets_what_blocks_meant() -> None:
    """The same bytes mean another field after an entry was added."""
    decoder = HeaderDecoder(tuple)
    decoder.request(b"\x40\x01a\x011")
    assert decoder.request(b"\xbe") == ((b"a", b"1"),)
    decoder.request(b"\x40\x01b\x012")
    assert decoder.request(b"\xbe") == ((b"b", b"2"),)
    assert decoder.request(b"\xbf") == ((b"a", b"1"),)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xff\x80\x80\x80\x80\x80\x01",
        b"\xbe",
        b"\x40\x05ab",
        b"\x00",
        b"\x82\x20",
        b"\x3f\xe2\x1f",
        b"\x40\x81\xff\x01a",
    ],
    ids=[
        "index 0", "long integer", "index beyond the table", "truncated string",
        "truncated literal", "late size update", "table too large", "broken Huffman code",
    ],
)  # fmt: skip
def test_broken_blocks_are_refused(block: bytes) -> None:
    """Whatever HPACK forbids is a compression error."""
    with pytest.raises(CompressionError):
        HeaderDecoder(tuple).request(block)


@given(st.binary(max_size=200))
def test_arbitrary_blocks_are_read_or_refused(block: bytes) -> None:
    """No bytes make the decoder fail in another way."""
    decoder = HeaderDecoder(tuple)
    try:
        fields = decoder.request(block)
    except CompressionError:
        return
    assert all(isinstance(part, bytes) for field in fields for part in field)
