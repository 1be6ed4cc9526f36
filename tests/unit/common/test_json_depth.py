"""The depth of a JSON text (E19)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import InvalidInputError
from atril_common.oip import json_depth
from atril_common.oip.json_depth import MAX_DEPTH, check_depth, occurrences


def depth_of(value: Any) -> int:
    """Lists and objects within each other, by definition."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


_texts = st.text(st.sampled_from('[]{}"\\/ab, '), max_size=30)
_values = st.recursive(
    st.none() | st.integers() | _texts,
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(_texts, inner, max_size=40),
    max_leaves=60,
)


@given(_values, st.integers(MAX_DEPTH - 8, MAX_DEPTH + 1), st.sampled_from([None, 1]))
def test_a_text_is_refused_where_it_is_too_deep(value: Any, around: int, indent: int) -> None:
    """E19: brackets in strings and brackets beside each other do not count."""
    for _ in range(around):
        value = [value, "]"]
    text = json.dumps([[]] * MAX_DEPTH, indent=indent)[:-1] + "," + json.dumps(value) + "]"
    if 1 + depth_of(value) > MAX_DEPTH:
        with pytest.raises(InvalidInputError, match="nested deeper"):
            check_depth(text.encode())
    else:
        check_depth(text.encode())


def test_depth_counts_across_the_parts_in_which_a_text_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E19: a long text is not judged part by part."""
    monkeypatch.setattr(json_depth, "_AT_ONCE", 7)
    check_depth(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"[]")
    with pytest.raises(InvalidInputError):
        check_depth(b"[" * (MAX_DEPTH + 1))


@given(st.binary(max_size=300).map(lambda noise: b"[" * MAX_DEPTH + b"{" + noise))
def test_what_is_no_json_raises_nothing_else(text: bytes) -> None:
    """E19: the check is made before the text is parsed."""
    with pytest.raises(InvalidInputError):
        check_depth(text)


def test_an_unclosed_string_of_quotes_takes_no_longer_than_others() -> None:
    """E19: the check is linear; a quadratic one would not end within the life of the test."""
    check_depth(b"[]" * MAX_DEPTH + b'"' + b'\\"' * 2_000_000)


@given(st.binary(max_size=60), st.integers(0, 20))
def test_a_byte_is_counted_up_to_one_above_the_limit(text: bytes, at_most: int) -> None:
    """E19: exact where it is within the limit."""
    assert occurrences(text, b"[", at_most) == min(text.count(b"["), at_most + 1)
