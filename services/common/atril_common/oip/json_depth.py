"""How deeply a JSON text is nested, told before it is parsed (case E19)."""

import re

import numpy as np

from atril_common.errors import InvalidInputError

MAX_DEPTH = 100
"""Lists and objects within each other."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, or what an unclosed one leaves; never goes back, so it is linear in any text."""

_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_AT_ONCE = 1 << 20


def occurrences(text: bytes, byte: bytes, at_most: int) -> int:
    """How often a byte occurs, counted no further than one above `at_most`.

    Where it is rare, this is several times as fast as `bytes.count`.
    """
    count = 0
    at = text.find(byte)
    while at >= 0 and count <= at_most:
        count += 1
        at = text.find(byte, at + 1)
    return count


def check_depth(text: bytes) -> None:
    """Refuse a text that is nested too deeply; a text that is no JSON is not found out here.

    Raises:
        InvalidInputError: it is nested deeper than `MAX_DEPTH`.
    """
    if occurrences(text, b"[", MAX_DEPTH) + occurrences(text, b"{", MAX_DEPTH) <= MAX_DEPTH:
        return  # nearly always: numbers are not in brackets
    brackets = _STRING.sub(b"", text).translate(None, _BUT_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _AT_ONCE):
        part = np.frombuffer(brackets[start : start + _AT_ONCE], np.int8)
        depths = depth + np.cumsum((part & 2) - 1, dtype=np.int32)  # "[{" have this bit, "]}" not
        if depths.max() > MAX_DEPTH:
            raise InvalidInputError(
                f"Unable to parse the request body as JSON: it is nested deeper than {MAX_DEPTH}"
            )
        depth = int(depths[-1])
