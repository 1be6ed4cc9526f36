"""Tensors as JSON `data`: nested by rows or flat on the way in, flat on the way out."""

import struct
from typing import Any

import numpy as np

from atril_common.errors import InvalidInputError, sample
from atril_common.tensors import DATATYPES, Tensor, dtype_of, element_count, shaped

_MAX_DEPTH = 32
_ACCEPTED_KINDS = {"f": "fiub", "i": "iu", "u": "iu", "b": "b"}
"""By the kind of the dtype wanted: the kinds that JSON values may have."""

_PACKED = {"<f4": "f", "<f8": "d"}
_MAX_PACKED = 65536
"""`struct` turns a flat list of floats into bytes three times as fast as numpy reads it."""


def tensor_from_json(data: object, datatype: str, shape: tuple[int, ...], name: str) -> Tensor:
    """Read a tensor from a list, or from the numbers that `read_message` has packed already.

    Raises:
        InvalidInputError: values of another kind than the datatype, out of its range, or not as
        many
            as the shape has elements.
    """
    if isinstance(data, np.ndarray):
        tensor = _finite(_narrowed(data, dtype_of(datatype, where=f"input '{name}'")), name)
    elif not isinstance(data, list):
        raise InvalidInputError(f"Unable to parse 'data' of input '{name}': expected a list")
    elif datatype == "BYTES":
        tensor = _strings(data, name)
    elif datatype in ("FP16", "BF16"):
        raise InvalidInputError(
            f"input '{name}': {datatype} has no JSON form; send it as binary data"
        )
    else:
        tensor = _numbers(data, dtype_of(datatype, where=f"input '{name}'"), name)
    if tensor.size != element_count(shape):
        raise InvalidInputError(
            f"Shape does not match true shape of 'data' field of input '{name}': shape "
            f"{list(shape)} has {element_count(shape)} elements, 'data' has {tensor.size}"
        )
    return shaped(tensor, shape, name=name)


def json_from_tensor(tensor: Tensor, name: str) -> object:
    """What orjson writes as `data`, flat.

    Raises:
        InvalidInputError: FP16, BF16, NaN, infinity or bytes that are not UTF-8, none of which JSON
            can carry; the text advises to ask for binary data.
    """
    kind = tensor.dtype.kind
    if kind == "O":
        try:
            return [element.decode() for element in tensor.ravel()]
        except UnicodeDecodeError:
            raise _not_json(name, "holds bytes that are not UTF-8") from None
    if kind in "fV":
        if tensor.dtype.itemsize == 2:
            raise _not_json(name, f"is {DATATYPES[tensor.dtype]}")
        if not np.isfinite(tensor).all():
            raise _not_json(name, "holds NaN or infinity")
    return tensor.ravel()


def _not_json(name: str, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"output '{name}' {what}, which JSON cannot carry; request it with binary_data"
    )


def _numbers(data: list[Any], dtype: np.dtype[Any], name: str) -> Tensor:
    tensor = _packed(data, dtype)
    if tensor is None:
        tensor = _converted(data, dtype, name)
    return _finite(tensor, name) if dtype.kind == "f" else tensor


def _narrowed(values: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """Doubles in the datatype; what is beyond its range becomes infinite."""
    if dtype == values.dtype:
        return values
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not np.isfinite(tensor).all():
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': a value is beyond the range of "
            f"{DATATYPES[tensor.dtype]}"
        )
    return tensor


def _packed(data: list[Any], dtype: np.dtype[Any]) -> Tensor | None:
    """A flat list of a moderate number of floats; None for any other."""
    code = _PACKED.get(dtype.str)
    if code is None or len(data) > _MAX_PACKED:
        return None
    try:
        return np.frombuffer(struct.pack(f"<{len(data)}{code}", *data), dtype)
    except (struct.error, OverflowError):
        return None


def _converted(data: list[Any], dtype: np.dtype[Any], name: str) -> Tensor:
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': rows of different lengths"
        ) from None
    if not values.size:
        return values.astype(dtype)
    if dtype.kind in "iu" and values.dtype.kind == "f":
        # Integers on both sides of 2**63 make numpy take floats, which lose digits.
        exact = np.array(data, dtype=object)
        if all(type(value) is int for value in exact.ravel()):
            return _within(exact, dtype, name)
    if values.dtype.kind not in _ACCEPTED_KINDS[dtype.kind] or values.ndim > _MAX_DEPTH:
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': expected values of {DATATYPES[dtype]}, got "
            f"{sample(data)}"
        )
    if dtype.kind in "iu":
        return _within(values, dtype, name)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _within(values: Tensor, dtype: np.dtype[Any], name: str) -> Tensor:
    limits = np.iinfo(dtype)
    if int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise InvalidInputError(
            f"Unable to parse 'data' of input '{name}': values must be {limits.min} … "
            f"{limits.max} for {DATATYPES[dtype]}"
        )
    return values.astype(dtype)


def _strings(data: list[Any], name: str) -> Tensor:
    elements: list[bytes] = []
    rows = [iter(data)]
    while rows:
        for item in rows[-1]:
            if isinstance(item, str):
                elements.append(item.encode())
            elif isinstance(item, list) and len(rows) < _MAX_DEPTH:
                rows.append(iter(item))
                break
            else:
                raise InvalidInputError(
                    f"Unable to parse 'data' of input '{name}': expected strings for BYTES, got "
                    f"{sample(item)}"
                )
        else:
            rows.pop()
    tensor = np.empty(len(elements), dtype=object)
    tensor[:] = elements
    return tensor
