"""Content codings of HTTP bodies, gzip and deflate, both ways (reference 2.5, case E22).

Nothing here runs for a request without `Content-Encoding` and `Accept-Encoding`.
"""

import asyncio
import zlib
from functools import lru_cache
from typing import NamedTuple

from atril_common.errors import InvalidInputError, UnsupportedMediaTypeError, sample

CODINGS = "gzip, deflate"
"""What is read and written, as the header `Accept-Encoding` tells it."""

LEAST_BYTES = 1024
"""A shorter answer is not compressed unless it must be: it would gain nothing."""

INLINE_BYTES = 64 * 1024
"""Longer bodies are compressed and inflated in a thread, not on the event loop."""

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_LEVEL = 1


class _Preference(NamedTuple):
    """What an `Accept-Encoding` asks for; `must` where plain bytes are refused."""

    coding: str | None
    must: bool


def coding_of(content_encoding: str | None) -> str | None:
    """The coding of a request's body, or None if it is plain.

    Raises:
        UnsupportedMediaTypeError: a coding that is not read (case E22).
    """
    coding = (content_encoding or "identity").strip().lower()
    if coding == "identity":
        return None
    if coding not in _WINDOW_BITS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding {sample(content_encoding)} is not supported: expected one of "
            f"{CODINGS}, identity"
        )
    return coding


async def inflated(body: bytes, coding: str, limit: int) -> bytes | None:
    """A request's plain body, or None if it is larger than the limit.

    No more than the limit is ever inflated, whatever the body promises.

    Raises:
        InvalidInputError: the body is not whole, or not in this coding.
    """
    inflater = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        plain = inflater.decompress(body, min(limit + 1, INLINE_BYTES))
        if not inflater.eof and len(plain) <= limit:
            rest, room = inflater.unconsumed_tail, limit + 1 - len(plain)
            plain += await asyncio.to_thread(inflater.decompress, rest, room)
    except zlib.error as err:
        raise InvalidInputError(f"the request body is not {coding} data: {err}") from None
    if len(plain) > limit:
        return None
    if not inflater.eof or inflater.unused_data:
        what = "bytes follow its end" if inflater.eof else "its end is missing"
        raise InvalidInputError(f"the request body is not whole {coding} data: {what}")
    return plain


def wanted_coding(accept_encoding: str, size: int) -> str | None:
    """The coding for an answer of `size` bytes; None leaves it plain."""
    coding, must = _preference(accept_encoding)
    return coding if size >= LEAST_BYTES or must else None


def deflated(body: bytes, coding: str) -> bytes:
    """An answer's body in a coding."""
    return zlib.compress(body, _LEVEL, _WINDOW_BITS[coding])


@lru_cache(64)
def _preference(accept_encoding: str) -> _Preference:
    """The coding with the highest weight; of equal ones the first that we name."""
    weights = dict(map(_weighted, accept_encoding.lower().split(",")))
    others = weights.get("*", 0.0)
    weight, coding = max(
        ((weights.get(name, others), name) for name in _WINDOW_BITS), key=lambda pair: pair[0]
    )
    plain = weights.get("identity", weights.get("*"))
    if weight <= 0 or weights.get("identity", 0.0) > weight:
        return _Preference(None, must=False)
    return _Preference(coding, must=plain == 0)


def _weighted(item: str) -> tuple[str, float]:
    """A coding and its weight; one whose weight cannot be read is not wanted."""
    name, *parameters = (part.strip() for part in item.split(";"))
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
    return name, weight if 0 <= weight <= 1 else 0.0
