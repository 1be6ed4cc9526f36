"""The IDX format of the MNIST files: a big-endian header, then bytes in row-major order.

Pictures: magic 2051, count, rows, columns (16 bytes). Labels: magic 2049, count (8 bytes).
Source: http://yann.lecun.com/exdb/mnist, "File formats for the MNIST database".
"""

import gzip
import struct
import zlib
from math import prod

import numpy as np
from numpy.typing import NDArray

from atril_training.errors import CorruptDataError

PICTURES_MAGIC = 2051
LABELS_MAGIC = 2049

_WORD = struct.Struct(">I")


def pictures_from_idx(compressed: bytes, *, name: str) -> NDArray[np.uint8]:
    """Read a gzip-compressed file of pictures.

    Shape: returns uint8 [N, rows, columns].

    Raises:
        CorruptDataError: not gzip, wrong magic, or not as long as its header says.
    """
    return _array_from_idx(_decompress(compressed, name), PICTURES_MAGIC, 3, name)


def labels_from_idx(compressed: bytes, *, name: str) -> NDArray[np.int64]:
    """Read a gzip-compressed file of labels.

    Shape: returns int64 [N].

    Raises:
        CorruptDataError: not gzip, wrong magic, or not as long as its header says.
    """
    return _array_from_idx(_decompress(compressed, name), LABELS_MAGIC, 1, name).astype(np.int64)


def _decompress(compressed: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(compressed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise CorruptDataError(f"{name}: not a complete gzip file: {err}") from err


def _array_from_idx(raw: bytes, magic: int, rank: int, name: str) -> NDArray[np.uint8]:
    header_bytes = _WORD.size * (1 + rank)
    if len(raw) < header_bytes:
        raise CorruptDataError(
            f"{name}: got {len(raw)} bytes, expected a header of {header_bytes} bytes"
        )
    got_magic, *shape = (word for (word,) in _WORD.iter_unpack(raw[:header_bytes]))
    if got_magic != magic:
        raise CorruptDataError(f"{name}: got magic number {got_magic}, expected {magic}")
    expected = header_bytes + prod(shape)
    if len(raw) != expected:
        raise CorruptDataError(
            f"{name}: got {len(raw)} bytes, expected {expected} for the shape {shape} in its header"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header_bytes).reshape(shape)
