"""Files and arrays become pictures, or the error says which one is wrong and what was expected."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from atril_common.errors import InvalidInputError, TooLargeError
from atril_common.tasks import ImageInput
from atril_gateway.pictures import (
    PictureLimits,
    read_pictures,
    split_arrays,
    tensor_from_pictures,
)

from .conftest import png_bytes

LIMITS = PictureLimits(max_image_pixels=10_000, max_pictures=5)
GREY = ImageInput("image", 5, 7, (0.1307,), (0.3081,))
COLOUR = ImageInput("image", 5, 7, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GOOD = [[0, 128], [200, 255]]
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)


def jpeg_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG file of the pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def tensor(contents: list[object], spec: ImageInput = GREY) -> NDArray[np.float32]:
    """The model's input for pictures."""
    return tensor_from_pictures(read_pictures(contents, LIMITS), spec, stopped=lambda: False)


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG of any size, without its pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT"
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0) + data + struct.pack(">I", zlib.crc32(data))
    )  # fmt: skip


@st.composite
def pixel_arrays(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Pictures [H, W], [H, W, 1] or [H, W, 3] of small sizes."""
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    channels = draw(st.sampled_from([(), (1,), (3,)]))
    return draw(arrays(np.uint8, size + channels))


@given(pixel_arrays(), st.sampled_from([GREY, COLOUR]), st.sampled_from([int, float]))
def test_an_array_and_its_png_give_the_same_bits(
    pixels: NDArray[np.uint8], spec: ImageInput, number: type
) -> None:
    """There is no skew between the two ways in, for whole numbers of any type."""
    squeezed = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    from_file = tensor([png_bytes(squeezed)], spec)
    from_array = tensor([pixels.astype(number).tolist()], spec)
    assert from_file.tobytes() == from_array.tobytes()


@given(st.lists(pixel_arrays(), min_size=1, max_size=5))
def test_pictures_keep_their_order(pictures: list[NDArray[np.uint8]]) -> None:
    """Picture i of many is the same as picture i alone."""
    together = tensor([p.tolist() for p in pictures])
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(together[index], tensor([picture.tolist()])[0])


def test_fractions_are_rounded() -> None:
    """Values between two whole numbers go to the nearer one."""
    np.testing.assert_array_equal(tensor([[[0.4, 127.6]]]), tensor([[[0, 128]]]))


def test_a_jpeg_is_read() -> None:
    """JPEG files are pictures too."""
    white = jpeg_bytes(np.full((5, 7, 3), 255, np.uint8))
    np.testing.assert_allclose(tensor([white])[0], (1 - 0.1307) / 0.3081, rtol=1e-5)


BAD_ARRAYS = {
    "ragged": ([[1, 2], [3]], "rows of different lengths: expected an array \\[H, W\\]"),
    "one dimension": ([1, 2, 3], "shape \\[3\\]: expected \\[H, W\\] or \\[H, W, C\\]"),
    "four dimensions": ([[[[1]]]], "shape \\[1, 1, 1, 1\\]: expected \\[H, W\\]"),
    "two channels": ([[[1, 2]]], "shape \\[1, 1, 2\\]: expected .* 1 or 3 channels"),
    "four channels": ([[[1, 2, 3, 4]]], "shape \\[1, 1, 4\\]: expected .* 1 or 3 channels"),
    "empty": ([], "empty: expected"),
    "empty rows": ([[], []], "empty: expected"),
    "text": ([["a", "b"]], "not numbers: expected numbers 0 … 255"),
    "null": ([[1, None]], "not numbers: expected numbers 0 … 255"),
    "booleans": ([[True, False]], "not numbers: expected numbers 0 … 255"),
    "an object": ({"a": 1}, "not numbers: expected numbers 0 … 255"),
    "a number": (7, "shape \\[\\]: expected \\[H, W\\]"),
    "not a number": ([[1.0, float("nan")]], "value nan at \\[0, 1\\]: expected numbers 0 … 255"),
    "infinite": ([[float("inf")]], "value inf at \\[0, 0\\]: expected numbers 0 … 255"),
    "too large": ([[1, 2], [3, 256]], "value 256 at \\[1, 1\\]: expected numbers 0 … 255"),
    "negative": ([[-1]], "value -1 at \\[0, 0\\]: expected numbers 0 … 255"),
    "huge": ([[10**30]], "expected numbers 0 … 255"),
    "between 0 and 1": ([[0.5, 1.0]], "values between 0 and 1: expected .* multiply them by 255"),
}


@pytest.mark.parametrize(("array", "match"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_bad_array_is_refused(array: object, match: str) -> None:
    """The text says which picture, what is wrong with it and what was expected."""
    with pytest.raises(InvalidInputError, match=f"picture 1: .*{match}"):
        read_pictures([GOOD, array], LIMITS)


def test_black_and_white_in_zeros_and_ones_is_allowed() -> None:
    """Whole numbers 0 and 1 are a very dark picture, which is possible."""
    assert tensor([[[0, 1], [1.0, 0]]]).shape == (1, 1, 5, 7)


BAD_FILES = {
    "no image": (b"GIF89a....", "not an image: expected a PNG or JPEG file"),
    "empty": (b"", "not an image: expected a PNG or JPEG file"),
    "only the PNG signature": (b"\x89PNG\r\n\x1a\n", "damaged file: .*complete PNG or JPEG"),
    "only the JPEG signature": (b"\xff\xd8\xff", "damaged file: .*complete PNG or JPEG"),
    "truncated PNG": (png_bytes(NOISE)[:2000], "damaged file: .*truncated"),
    "truncated JPEG": (jpeg_bytes(NOISE)[:2000], "damaged file: .*truncated"),
    "wrong checksum": (
        png_bytes(GOOD)[:33] + b"\x00\x00\x00\x01IDATx\x00\x00\x00\x00",
        "damaged file: .*complete PNG or JPEG",
    ),
    "no pixels": (png_header(3, 3), "damaged file: .*complete PNG or JPEG"),
}


@pytest.mark.parametrize(("content", "match"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused(content: bytes, match: str) -> None:
    """The text says which picture, why it cannot be read and what was expected."""
    with pytest.raises(InvalidInputError, match=f"picture 1: .*{match}"):
        tensor([GOOD, content])


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_are_refused(file_format: str) -> None:
    """Pillow could read more, but nothing else is let near its decoders."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, file_format)
    with pytest.raises(InvalidInputError, match="picture 0: not an image: expected a PNG or JPEG"):
        read_pictures([file.getvalue()], LIMITS)


@pytest.mark.parametrize(("width", "height"), [(10_001, 1), (101, 100), (60_000, 60_000)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    """The size is read before any pixel is, and before Pillow's own limits would warn."""
    with pytest.raises(
        TooLargeError, match=f"picture 0: {width} × {height} = .*expected at most 10000"
    ):
        read_pictures([png_header(width, height)], LIMITS)


def test_a_picture_of_exactly_the_limit_is_read() -> None:
    """The limit itself is allowed, for files and arrays."""
    pixels = np.zeros((100, 100), np.uint8)
    assert len(read_pictures([png_bytes(pixels), pixels.tolist()], LIMITS)) == 2


def test_a_large_array_is_refused() -> None:
    """Arrays have the same limit as files."""
    with pytest.raises(TooLargeError, match="picture 0: 101 × 100 = 10100 pixels"):
        read_pictures([np.zeros((100, 101)).tolist()], LIMITS)


def test_too_many_pictures_are_refused() -> None:
    """One request holds a limited number of pictures."""
    assert len(read_pictures([GOOD] * 5, LIMITS)) == 5
    with pytest.raises(TooLargeError, match="6 pictures: expected at most 5"):
        read_pictures([GOOD] * 6, LIMITS)


def test_no_picture_is_refused() -> None:
    """There is nothing to classify in an empty list."""
    with pytest.raises(InvalidInputError, match="no pictures: expected at least one"):
        read_pictures([], LIMITS)


@given(st.data())
def test_a_mutated_file_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever the bytes, nothing but an `AtrilError` comes out."""
    original = bytearray(png_bytes(np.arange(48).reshape(6, 8)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(8, len(original) - 1))
        original[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInputError, TooLargeError):
        assert tensor([bytes(original)]).shape == (1, 1, 5, 7)


def test_stopping_leaves_the_rest_undecoded() -> None:
    """A request that nobody waits for any more costs no further decoding."""
    pictures = read_pictures([png_bytes([[255]]), png_bytes([[255]])], LIMITS)
    answers = iter([False, True])
    stopped = tensor_from_pictures(pictures, GREY, stopped=lambda: next(answers))
    np.testing.assert_array_equal(stopped[1], tensor([[[0]]])[0])


SPLITS = {
    "[H, W]": ((5, 6), 1),
    "[H, W, 3]": ((5, 6, 3), 1),
    "[H, W, 1]": ((5, 6, 1), 1),
    "[H, W, 4] is one bad picture": ((5, 6, 4), 1),
    "[N, H, W]": ((5, 6, 7), 5),
    "[N, H, W, 3]": ((5, 6, 7, 3), 5),
}


@pytest.mark.parametrize(("shape", "count"), SPLITS.values(), ids=SPLITS)
def test_an_array_is_one_picture_or_many(shape: tuple[int, ...], count: int) -> None:
    """The number of dimensions says how many pictures an array holds."""
    assert len(split_arrays(np.zeros(shape).tolist())) == count


@pytest.mark.parametrize("shape", [(0,), (3,), (1, 1, 1, 1, 1)])
def test_other_numbers_of_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    """One dimension or five are no pictures."""
    with pytest.raises(InvalidInputError, match=f"array of {len(shape)} dimensions: expected one"):
        split_arrays(np.zeros(shape).tolist())
