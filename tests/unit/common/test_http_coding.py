"""Content codings of bodies (2.5, E22)."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import InvalidInputError, UnsupportedMediaTypeError
from atril_common.oip.http_coding import (
    INLINE_BYTES,
    LEAST_BYTES,
    coding_of,
    deflated,
    inflated,
    wanted_coding,
)

CODINGS = st.sampled_from(["gzip", "deflate"])
BODIES = st.binary(max_size=200) | st.integers(0, 3 * INLINE_BYTES).map(lambda n: b"a" * n)


@given(BODIES, CODINGS)
async def test_what_was_compressed_is_read_as_it_was(body: bytes, coding: str) -> None:
    """2.5: short bodies on the loop, long ones in a thread."""
    assert await inflated(deflated(body, coding), coding, 3 * INLINE_BYTES) == body


def test_the_codings_are_those_of_http() -> None:
    """2.5: `deflate` is the zlib format, as RFC 9110 has it."""
    assert gzip.decompress(deflated(b"text", "gzip")) == b"text"
    assert zlib.decompress(deflated(b"text", "deflate")) == b"text"


@given(BODIES.filter(bool), CODINGS, st.data())
async def test_a_body_over_the_limit_is_not_read(
    body: bytes, coding: str, data: st.DataObject
) -> None:
    """E20: the limit holds for the plain body."""
    limit = data.draw(st.integers(0, len(body) - 1))
    assert await inflated(deflated(body, coding), coding, limit) is None


async def test_no_more_than_the_limit_is_inflated() -> None:
    """E20: a bomb of a gibibyte is refused at the limit, in the memory of the limit."""
    bomb, deflater = [], zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(1024):
        bomb.append(deflater.compress(bytes(1 << 20)))
    bomb.append(deflater.flush())
    assert await inflated(b"".join(bomb), "gzip", 1 << 20) is None


@given(BODIES, CODINGS, st.data())
async def test_a_damaged_body_is_refused_or_read(
    body: bytes, coding: str, data: st.DataObject
) -> None:
    """E11: cut, lengthened or changed, the answer is an error of ours or the body itself."""
    damaged = bytearray(deflated(body, coding))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        damaged[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    tail = data.draw(st.binary(max_size=3))
    try:
        plain = await inflated(bytes(damaged[:cut]) + tail, coding, len(body))
    except InvalidInputError:
        return
    assert plain is None or len(plain) <= len(body)


@pytest.mark.parametrize("extra", [b"x", gzip.compress(b"more")])
async def test_what_follows_the_end_is_refused(extra: bytes) -> None:
    """E11: nothing is dropped in silence."""
    with pytest.raises(InvalidInputError, match="follow"):
        await inflated(gzip.compress(b"text") + extra, "gzip", 1000)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        ("identity", None),
        ("Identity", None),
        ("GZIP", "gzip"),
        (" deflate", "deflate"),
    ],
)
def test_a_content_encoding_names_a_coding(header: str | None, coding: str | None) -> None:
    """E22: names are read in any case."""
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, deflate", "gzip;q=1"])
def test_another_content_encoding_is_unsupported(header: str) -> None:
    """E22: the text says what is read."""
    with pytest.raises(UnsupportedMediaTypeError, match="gzip, deflate"):
        coding_of(header)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("GZIP ; Q=0.5 , deflate;q=0.4", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0, deflate", "deflate"),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0.5, gzip", "gzip"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0, *", "deflate"),
        ("br, zstd", None),
        ("gzip;q=nonsense", None),
        ("gzip;q=7", None),
        ("", None),
        (",;,=", None),
    ],
)
def test_the_coding_with_the_highest_weight_is_chosen(header: str, coding: str | None) -> None:
    """2.5: `Accept-Encoding` by q-values; plain is as good as any unless it is weighed."""
    assert wanted_coding(header, LEAST_BYTES) == coding


def test_a_short_answer_stays_plain_unless_plain_is_refused() -> None:
    """2.5: compressing a few bytes gains nothing."""
    assert wanted_coding("gzip", LEAST_BYTES - 1) is None
    assert wanted_coding("gzip, identity;q=0", LEAST_BYTES - 1) == "gzip"
    assert wanted_coding("gzip, *;q=0", LEAST_BYTES - 1) == "gzip"


@given(st.text(st.sampled_from("gzipdeflatny*;=q.0158, -"), max_size=40))
def test_any_accept_encoding_is_understood_somehow(header: str) -> None:
    """2.5: whatever the header is, the answer goes out."""
    assert wanted_coding(header, LEAST_BYTES) in (None, "gzip", "deflate")
