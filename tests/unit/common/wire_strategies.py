"""Hypothesis strategies for tensors and requests of the protocol."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from atril_common.core import InferRequest, RequestOptions, SequenceControl
from atril_common.errors import AtrilError
from atril_common.tensors import DTYPES, Tensor

ReadT = TypeVar("ReadT")

DATATYPES = tuple(DTYPES)
JSON_DATATYPES = tuple(d for d in DATATYPES if d not in ("FP16", "BF16"))

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(min_size=1, max_size=8)


def elements(datatype: str, *, finite: bool = True, utf8: bool = True) -> st.SearchStrategy[Any]:
    """Values that a datatype can hold; `finite` and `utf8` leave out what JSON cannot carry."""
    if datatype == "BYTES":
        text = st.text(max_size=6).map(str.encode)
        return text if utf8 else st.one_of(text, st.binary(max_size=6))
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BF16":
        return st.binary(min_size=2, max_size=2)
    if datatype.startswith("FP"):
        return st.floats(
            width=int(datatype[2:]),
            allow_nan=not finite,
            allow_infinity=not finite,  # type: ignore[arg-type]
        )
    limits = np.iinfo(DTYPES[datatype])
    return st.integers(int(limits.min), int(limits.max))


@st.composite
def tensors(
    draw: st.DrawFn,
    datatypes: tuple[str, ...] = DATATYPES,
    *,
    finite: bool = True,
    utf8: bool = True,
) -> Tensor:
    """A tensor of any datatype and shape, empty ones and scalars included."""
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(shapes)
    count = math.prod(shape)
    values = draw(
        st.lists(elements(datatype, finite=finite, utf8=utf8), min_size=count, max_size=count)
    )
    tensor = np.empty(count, DTYPES[datatype])
    tensor[:] = values
    return tensor.reshape(shape)


_whole = st.integers(0, 2**64 - 1)
_sequences = st.builds(
    SequenceControl, st.integers(1, 2**64 - 1) | st.text(min_size=1), st.booleans(), st.booleans()
)
_free_names = names.filter(
    lambda name: (
        not name.startswith("triton_")
        and name
        not in {
            "sequence_id",
            "sequence_start",
            "sequence_end",
            "priority",
            "timeout",
            "headers",
            "binary_data_output",
        }
    )
)
_values = (
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@st.composite
def options(draw: st.DrawFn, outputs: tuple[str, ...] = ()) -> RequestOptions:
    """What a request to these outputs may ask for."""
    counts = [(name, draw(st.integers(0, 2**64 - 1))) for name in outputs]
    parameters = draw(st.dictionaries(_free_names, _values, max_size=3))
    return RequestOptions(
        priority=draw(_whole),
        timeout_us=draw(_whole),
        sequence=draw(st.none() | _sequences),
        classification=tuple((name, count) for name, count in counts if count),
        parameters=tuple(sorted(parameters.items())),
    )


@st.composite
def requests(
    draw: st.DrawFn, datatypes: tuple[str, ...] = DATATYPES, *, finite: bool = True
) -> InferRequest:
    """A request with up to three inputs and perhaps a list of outputs."""
    inputs = draw(
        st.dictionaries(
            names, tensors(datatypes, finite=finite, utf8=finite), min_size=1, max_size=3
        )
    )
    outputs = tuple(draw(st.lists(names, unique=True, max_size=3)))
    return InferRequest("model", inputs, "", outputs, None, draw(options(outputs)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)
"""Any JSON document."""


def same(left: Tensor, right: Tensor) -> bool:
    """Equal in datatype, shape and every bit of every value."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == object:
        return bool(left.tolist() == right.tolist())
    return left.tobytes() == right.tobytes()


def read_or_refused(read: Callable[[], ReadT]) -> ReadT | None:
    """What was read, or None if it was refused with an AtrilError that says why.

    Raises:
        Exception: whatever else `read` raised, which no input may bring about.
    """
    try:
        return read()
    except AtrilError as err:
        if not str(err):
            raise
        return None
