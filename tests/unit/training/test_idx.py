"""Reading IDX files, good and bad."""

import gzip
import struct

import numpy as np
import pytest

from atril_training.datasets.idx import labels_from_idx, pictures_from_idx
from atril_training.errors import CorruptDataError

PICTURES = struct.pack(">IIII", 2051, 2, 2, 3) + bytes(range(12))
LABELS = struct.pack(">II", 2049, 3) + bytes([7, 0, 9])


def test_pictures_come_in_row_major_order() -> None:
    """Count, rows and columns come from the header, pixels row by row."""
    pictures = pictures_from_idx(gzip.compress(PICTURES), name="p.gz")
    assert pictures.dtype == np.uint8
    assert pictures.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


def test_labels_come_as_int64() -> None:
    """Labels are ready to be used as targets."""
    labels = labels_from_idx(gzip.compress(LABELS), name="l.gz")
    assert labels.dtype == np.int64
    assert labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain text", "p.gz: not a complete gzip file"),
        (gzip.compress(PICTURES)[:-9], "p.gz: not a complete gzip file"),
        (gzip.compress(b""), "p.gz: got 0 bytes, expected a header of 16 bytes"),
        (gzip.compress(PICTURES[:15]), "p.gz: got 15 bytes, expected a header of 16 bytes"),
        (gzip.compress(LABELS + bytes(9)), "p.gz: got magic number 2049, expected 2051"),
        (
            gzip.compress(PICTURES[:-1]),
            r"p.gz: got 27 bytes, expected 28 for the shape \[2, 2, 3\] in its header",
        ),
        (gzip.compress(PICTURES + b"\0"), "p.gz: got 29 bytes, expected 28"),
        (
            gzip.compress(struct.pack(">IIII", 2051, *[2**32 - 1] * 3)),
            f"p.gz: got 16 bytes, expected {16 + (2**32 - 1) ** 3}",
        ),
    ],
    ids=["no gzip", "cut gzip", "empty", "cut header", "magic", "short", "long", "huge header"],
)
def test_malformed_pictures_are_refused(content: bytes, message: str) -> None:
    """The error names the file, what was got and what was expected; nothing huge is allocated."""
    with pytest.raises(CorruptDataError, match=message):
        pictures_from_idx(content, name="p.gz")


def test_pictures_in_place_of_labels_are_refused() -> None:
    """The magic number tells one kind of file from the other."""
    with pytest.raises(CorruptDataError, match=r"l\.gz: got magic number 2051, expected 2049"):
        labels_from_idx(gzip.compress(PICTURES), name="l.gz")
