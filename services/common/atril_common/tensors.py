"""Tensors on the wire: datatypes of the Open Inference Protocol, their numpy form, their bytes."""

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atril_common.errors import InvalidInputError

Tensor = NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype("<u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("<i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "BF16": np.dtype("V2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        "BYTES": np.dtype(object),
    }
)
"""Wire name to numpy dtype.

`BYTES` is an object array of `bytes`. numpy has no BF16: its two bytes are carried as they are.
"""

DATATYPES: Mapping[np.dtype[Any], str] = MappingProxyType({v: k for k, v in DTYPES.items()})
"""Numpy dtype to wire name."""

_LENGTH_PREFIX = struct.Struct("<I")


class TensorSpec(NamedTuple):
    """What a model declares of one input or output.

    `shape` includes the batch dimension where the model batches; -1 is a variable dimension.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def dtype_of(datatype: str, *, where: str) -> np.dtype[Any]:
    """The numpy dtype of a wire datatype.

    Raises:
        InvalidInputError: the datatype is unknown; `where` says what declared it.
    """
    try:
        return DTYPES[datatype]
    except KeyError:
        known = ", ".join(DTYPES)
        raise InvalidInputError(
            f"invalid datatype '{datatype}' for {where}: expected one of {known}"
        ) from None


def element_count(shape: tuple[int, ...] | list[int]) -> int:
    """Number of elements of a fixed shape."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def tensor_from_bytes(
    raw: bytes | memoryview, datatype: str, shape: tuple[int, ...], *, name: str
) -> Tensor:
    """Read little-endian, row-major bytes; no copy for fixed-size datatypes.

    Raises:
        InvalidInputError: unknown datatype, or the bytes do not fill the shape exactly.
    """
    if datatype == "BYTES":
        return _strings_from_bytes(raw, shape, name=name)
    dtype = dtype_of(datatype, where=f"input '{name}'")
    expected = element_count(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidInputError(
            f"unexpected size for input '{name}': shape {list(shape)} of {datatype} needs "
            f"{expected} bytes, got {len(raw)}"
        )
    return shaped(np.frombuffer(raw, dtype=dtype), shape, name=name)


def shaped(tensor: Tensor, shape: tuple[int, ...], *, name: str) -> Tensor:
    """The tensor in a shape of as many elements.

    Raises:
        InvalidInputError: no tensor can have that shape (too many dimensions, or a product of the
            others beside a zero that overflows).
    """
    try:
        return tensor.reshape(shape)
    except ValueError as err:
        raise InvalidInputError(f"shape of input '{name}' is not possible: {err}") from None


def tensor_to_bytes(tensor: Tensor) -> bytes:
    """Little-endian, row-major bytes; each `BYTES` element is a 4-byte length and its content."""
    if tensor.dtype.kind != "O":
        return tensor.tobytes()
    parts: list[bytes] = []
    for element in tensor.ravel():
        parts.append(_LENGTH_PREFIX.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def _strings_from_bytes(raw: bytes | memoryview, shape: tuple[int, ...], *, name: str) -> Tensor:
    elements: list[bytes] = []
    offset, end = 0, len(raw)
    while offset < end:
        if end - offset < _LENGTH_PREFIX.size:
            raise InvalidInputError(
                f"unexpected size for input '{name}': BYTES element {len(elements)} has no "
                f"complete 4-byte length"
            )
        (length,) = _LENGTH_PREFIX.unpack_from(raw, offset)
        offset += _LENGTH_PREFIX.size
        if length > end - offset:
            raise InvalidInputError(
                f"unexpected size for input '{name}': BYTES element {len(elements)} announces "
                f"{length} bytes, {end - offset} are left"
            )
        elements.append(bytes(raw[offset : offset + length]))
        offset += length
    if len(elements) != element_count(shape):
        raise InvalidInputError(
            f"unexpected size for input '{name}': shape {list(shape)} needs "
            f"{element_count(shape)} BYTES elements, got {len(elements)}"
        )
    tensor = np.empty(len(elements), dtype=object)
    tensor[:] = elements
    return shaped(tensor, shape, name=name)
