"""Requests against what a model declares (E06-E10)."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.core import InferRequest
from atril_common.errors import InvalidInputError
from atril_common.tensors import Tensor, TensorSpec
from atril_common.validation import RequestValidator

A = TensorSpec("a", "FP32", (-1, 4))
B = TensorSpec("b", "INT32", (-1, -1))
BATCHING = RequestValidator("m", [A, B], ["y", "z"], 8)
PLAIN = RequestValidator("m", [TensorSpec("a", "FP32", (2, -1))], ["y"], 0)


def request(outputs: tuple[str, ...] = (), **inputs: Tensor) -> InferRequest:
    """A request with these inputs."""
    return InferRequest("m", inputs, outputs=outputs)


def a(*shape: int) -> Tensor:
    """An FP32 tensor."""
    return np.zeros(shape, np.float32)


def b(*shape: int) -> Tensor:
    """An INT32 tensor."""
    return np.zeros(shape, np.int32)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_good_request_has_its_batch_size(rows: int) -> None:
    """The batch size is the first dimension; variable dimensions take any size."""
    assert BATCHING.check(request(("z", "y"), a=a(rows, 4), b=b(rows, 7))) == rows


def test_the_order_of_the_inputs_does_not_matter() -> None:
    """Inputs go by name."""
    assert BATCHING.check(request(b=b(2, 1), a=a(2, 4))) == 2


def test_a_model_without_batching_counts_as_one() -> None:
    """`max_batch_size` 0: batch size 1 whatever the shape."""
    assert PLAIN.check(request(a=a(2, 9))) == 1


@pytest.mark.parametrize(
    ("validator", "bad", "text"),
    [
        (BATCHING, request(a=a(1, 4)), "expected 2 inputs but got 1 inputs"),
        (BATCHING, request(a=a(1, 4)), "['b']"),
        (BATCHING, request(), "expected 2 inputs but got 0 inputs"),
        (BATCHING, request(a=a(1, 4), b=b(1, 1), c=b(1, 1)), "unexpected inference input 'c'"),
        (BATCHING, request(a=a(1, 4), c=b(1, 1)), "missing required input(s) ['b']"),
        (
            BATCHING,
            request(a=b(1, 4), b=b(1, 1)),
            "data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        (BATCHING, request(a=a(1, 5), b=b(1, 1)), "Expected [-1,4], got [1,5]"),
        (BATCHING, request(a=a(4), b=b(1, 1)), "Expected [-1,4], got [4]"),
        (BATCHING, request(a=a(1, 4), b=b(1, 1, 1)), "Expected [-1,-1], got [1,1,1]"),
        (BATCHING, request(a=a(1, 5), b=b(1, 1)), "max_batch_size is 8"),
        (BATCHING, request(a=a(2, 4), b=b(3, 1)), "one batch size"),
        (BATCHING, request(a=a(9, 4), b=b(9, 1)), "batch-size must be <= 8"),
        (BATCHING, request(a=a(0, 4), b=b(0, 1)), "batch-size must be <= 8 and at least 1"),
        (BATCHING, request(("x",), a=a(1, 4), b=b(1, 1)), "unexpected inference output 'x'"),
        (PLAIN, request(a=a(3, 1)), "Expected [2,-1], got [3,1]"),
        (PLAIN, request(a=a(2)), "Expected [2,-1], got [2]"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    validator: RequestValidator, bad: InferRequest, text: str
) -> None:
    """E06-E10: the words of Triton, with what came and what was expected."""
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        validator.check(bad)


_tensors = st.builds(
    np.zeros,
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.sampled_from([np.float32, np.int32, np.bool_, object]),
)


@given(
    st.dictionaries(st.sampled_from("abc"), _tensors, max_size=3), st.lists(st.sampled_from("xyz"))
)
def test_a_request_is_accepted_exactly_when_it_fits(
    inputs: dict[str, Tensor], outputs: list[str]
) -> None:
    """E06-E10: nothing that does not fit passes, and nothing but an AtrilError is raised."""
    fits = (
        inputs.keys() == {"a", "b"}
        and set(outputs) <= {"y", "z"}
        and inputs["a"].dtype == np.float32
        and inputs["b"].dtype == np.int32
        and inputs["a"].shape[1:] == (4,)
        and inputs["b"].ndim == 2
        and 1 <= inputs["a"].shape[0] == inputs["b"].shape[0] <= 8
    )
    try:
        BATCHING.check(InferRequest("m", inputs, outputs=tuple(outputs)))
    except InvalidInputError:
        assert not fits
    else:
        assert fits
