"""Both readers of a request's JSON agree, and the faster one is asked where it may be."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.oip.json_message import read_message

_NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**63), 2**64 - 1),
)
_SCALARS = st.one_of(st.none(), st.booleans(), st.text(max_size=5), _NUMBERS)
_DATA = st.one_of(
    st.lists(_NUMBERS, max_size=8),
    st.lists(_SCALARS | st.lists(_SCALARS, max_size=3), max_size=8),
    _SCALARS,
)
_INPUTS = st.lists(
    st.fixed_dictionaries(
        {"name": st.text(max_size=5), "shape": st.lists(st.integers(0, 9), max_size=3)},
        optional={
            "datatype": st.sampled_from(["FP32", "FP64", "INT64", "BYTES"]) | _SCALARS,
            "data": _DATA,
            "parameters": st.dictionaries(st.text(max_size=5), _SCALARS, max_size=2),
        },
    ),
    max_size=3,
)
_MESSAGES = st.fixed_dictionaries(
    {"padding": st.just("p" * 1100)},
    optional={
        "id": st.text(max_size=5),
        "inputs": _INPUTS | _SCALARS,
        "outputs": st.lists(st.dictionaries(st.just("name"), st.text(max_size=5)), max_size=2),
        "parameters": st.dictionaries(st.text(max_size=5), _SCALARS, max_size=2),
    },
)


def request(data: str, datatype: str = "FP32") -> bytes:
    """A request of one input with this data, as text."""
    return (
        f'{{"id": "{"i" * 1100}", "inputs": [{{"name": "x", "datatype": "{datatype}", '
        f'"shape": [2], "data": {data}}}]}}'
    ).encode()


def listed(message: Any) -> Any:
    """The message with lists in place of arrays."""
    if isinstance(message, dict):
        return {key: listed(value) for key, value in message.items()}
    if isinstance(message, np.ndarray):
        return message.tolist()
    return [listed(value) for value in message] if isinstance(message, list) else message


def json_text(message: object) -> bytes:
    """JSON with integers of any size, which orjson does not write."""
    if isinstance(message, dict):
        members = (orjson.dumps(key) + b":" + json_text(value) for key, value in message.items())
        return b"{" + b",".join(members) + b"}"
    if isinstance(message, list):
        return b"[" + b",".join(map(json_text, message)) + b"]"
    return str(message).encode() if type(message) is int else orjson.dumps(message)


@given(_MESSAGES)
def test_both_readers_agree(message: dict[str, Any]) -> None:
    """Whatever the request looks like, its values are those that orjson reads."""
    text = json_text(message)

    assert listed(read_message(text)) == orjson.loads(text)


def test_a_flat_list_of_numbers_is_packed() -> None:
    """What most requests hold becomes an array without a Python object for each number."""
    data = read_message(request("[1, 2.5]"))["inputs"][0]["data"]

    assert isinstance(data, np.ndarray)
    assert data.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "text",
    [
        request("[[1], [2]]"),
        request("[1, [2]]"),
        request("[1, true]"),
        request("null"),
        request("1"),
        request("{}"),
        request("[1, 2]").replace(b'"inputs": [', b'"inputs": [[0, 1], '),
        request('["1", 2]'),
        request(f"[{2**63}, {2**70}]"),
        request("[1, 9223372036854775807]", "INT64"),
        request("[1, 2]").replace(b'"id"', b'"inputs": [], "id"'),
        b"[" + request("[1, 2]") + b"]",
    ],
    ids=[
        "rows",
        "ragged",
        "boolean",
        "null",
        "number",
        "object",
        "list",
        "string",
        "long",
        "integers",
        "twice",
        "no object",
    ],
)
def test_what_is_doubtful_is_left_to_the_careful_reader(text: bytes) -> None:
    """Lists that are not flat, values that are no numbers and the like are read as before."""
    message = read_message(text)

    assert message == orjson.loads(text)
    assert listed(message) is not None


@pytest.mark.parametrize("text", [request("[1, 2"), request("[1, NaN]"), request("[1e999, 2]")])
def test_errors_have_a_position(text: bytes) -> None:
    """What is not JSON is refused by the reader that can say where."""
    with pytest.raises(orjson.JSONDecodeError, match="line 1 column"):
        read_message(text)
