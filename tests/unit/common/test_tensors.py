"""Tensors and their bytes."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import InvalidInputError
from atril_common.tensors import (
    DATATYPES,
    DTYPES,
    Tensor,
    dtype_of,
    element_count,
    tensor_from_bytes,
    tensor_to_bytes,
)
from tests.unit.common.wire_strategies import read_or_refused, same, tensors


@given(tensors(finite=False, utf8=False))
def test_bytes_of_a_tensor_give_the_tensor_back(tensor: Tensor) -> None:
    """2.5: every datatype, shape and value, NaN and empty tensors included."""
    raw = tensor_to_bytes(tensor)
    back = tensor_from_bytes(raw, DATATYPES[tensor.dtype], tensor.shape, name="x")
    assert same(back, tensor)


@given(tensors(finite=False, utf8=False), st.data())
def test_truncated_or_extended_bytes_are_refused(tensor: Tensor, data: st.DataObject) -> None:
    """E17: one byte too few or too many is an error that names the input."""
    raw = tensor_to_bytes(tensor)
    change = data.draw(st.sampled_from(["longer", "shorter"] if raw else ["longer"]))
    damaged = raw + b"\0" if change == "longer" else raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(InvalidInputError, match="unexpected size for input 'x'"):
        tensor_from_bytes(damaged, DATATYPES[tensor.dtype], tensor.shape, name="x")


@given(
    st.binary(max_size=40),
    st.sampled_from([*DTYPES, "BF16", ""]),
    st.lists(st.integers(0, 3) | st.sampled_from([2**31 - 1, 2**62]), max_size=4).map(tuple),
)
def test_random_bytes_raise_nothing_but_an_atril_error(
    raw: bytes, datatype: str, shape: tuple[int, ...]
) -> None:
    """E13, E17: bytes are a tensor or an error of ours."""
    tensor = read_or_refused(lambda: tensor_from_bytes(raw, datatype, shape, name="x"))
    assert tensor is None or tensor.shape == shape


def test_bytes_elements_have_a_little_endian_length_before_them() -> None:
    """2.5: 4-byte little-endian length + content, no padding."""
    tensor = np.array([b"abc", b""], dtype=object)
    assert tensor_to_bytes(tensor) == b"\x03\0\0\0abc\0\0\0\0"


def test_numbers_are_little_endian_and_row_major() -> None:
    """2.5: also where the array in memory is not."""
    tensor = np.array([[1, 3], [2, 4]], np.int16).T
    assert tensor_to_bytes(tensor) == struct.pack("<4h", 1, 2, 3, 4)


def test_booleans_are_one_byte() -> None:
    """2.5: `BOOL` = one byte."""
    assert tensor_to_bytes(np.array([True, False])) == b"\1\0"


def test_every_wire_datatype_has_its_own_dtype() -> None:
    """2.2 datatypes: the two tables are each other's inverse and complete."""
    assert {DATATYPES[dtype]: dtype for dtype in DTYPES.values()} == dict(DTYPES)
    assert set(DTYPES) == {
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
        "BF16", "FP32", "FP64", "BYTES",
    }  # fmt: skip


def test_an_unknown_datatype_is_told_with_those_there_are() -> None:
    """E13: `invalid datatype`, what came, where, and what is allowed."""
    with pytest.raises(InvalidInputError, match=r"invalid datatype 'FP12' for here: .*FP32"):
        dtype_of("FP12", where="here")


@pytest.mark.parametrize(
    ("shape", "count"), [((), 1), ((0, 5), 0), ((2, 3), 6), ((2**40, 2), 2**41)]
)
def test_elements_are_counted_without_overflow(shape: tuple[int, ...], count: int) -> None:
    """The count is exact for shapes that no memory could hold."""
    assert element_count(shape) == count
