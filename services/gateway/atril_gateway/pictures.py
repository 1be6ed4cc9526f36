"""Pictures as they come - PNG or JPEG files, arrays of pixel values - to Pillow images.

A file is opened, which reads its header, and checked against the limit; its pixels are decoded
later, by `tensor_from_pictures`, so that a huge picture costs nothing before it is refused.

Shape letters: N pictures, C channels, H height, W width.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from atril_common.errors import InvalidInputError, TooLargeError
from atril_common.imaging import normalise, pixels_from_image
from atril_common.tasks import ImageInput

FORMATS: dict[bytes, Callable[[io.BytesIO], Image.Image]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
}
"""What a file begins with, to Pillow's reader of it.

The readers are called directly: `Image.open` has a limit of its own, which is global to the process
and at some sizes warns instead of refusing."""

ARRAY_SHAPES = "[H, W] or [H, W, C] with 1 or 3 channels"
VALUES = "numbers 0 … 255"

_MAX_CHANNELS = 4
_UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, EOFError, MemoryError, RuntimeError, Warning, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's readers raise for files that are not what they should be."""


class PictureLimits(NamedTuple):
    """What is decoded at most."""

    max_image_pixels: int
    max_pictures: int


def read_pictures(contents: Sequence[object], limits: PictureLimits) -> list[Image.Image]:
    """Open files (`bytes`) and convert arrays (nested lists or numpy), keeping their order.

    Raises:
        InvalidInputError: no picture, or one is neither a PNG or JPEG file nor a proper array; the
            text says which one, counted from 0, and what was expected.
        TooLargeError: too many pictures, or one has too many pixels.
    """
    if not contents:
        raise InvalidInputError("no pictures: expected at least one")
    if len(contents) > limits.max_pictures:
        raise TooLargeError(
            f"{len(contents)} pictures: expected at most {limits.max_pictures} in one request"
        )
    return [_read(content, index, limits) for index, content in enumerate(contents)]


def split_arrays(value: list[Any]) -> list[Any]:
    """The pictures in an array: `[H, W]`, `[H, W, C]` or a list of either.

    Three dimensions are one `[H, W, C]` if the last has at most 4 entries, else a list of `[H, W]`.

    Raises:
        InvalidInputError: too few or too many dimensions.
    """
    rank = _rank(value)
    if rank == 2 or (rank == 3 and len(value[0][0]) <= _MAX_CHANNELS):
        return [value]
    if rank in (3, 4):
        return value
    raise InvalidInputError(
        f"an array of {rank} dimensions: expected one picture, {ARRAY_SHAPES}, or a list of such"
    )


def tensor_from_pictures(
    pictures: Sequence[Image.Image], spec: ImageInput, stopped: Callable[[], bool]
) -> NDArray[np.float32]:
    """Decode, fit to the model's input and normalise; the pictures are closed on the way.

    Shape: returns float32 `[N, C, H, W]`.

    Args:
        pictures: at least one.
        spec: the model's input.
        stopped: asked before each picture; when it says so, what there is so far is returned.

    Raises:
        InvalidInputError: a picture's file is damaged.
    """
    pixels = np.zeros((len(pictures), spec.channels, spec.height, spec.width), np.uint8)
    for index, picture in enumerate(pictures):
        if stopped():
            break
        try:
            pixels[index] = pixels_from_image(picture, spec)
        except _UNREADABLE as err:
            raise _unreadable(index, err) from err
        finally:
            picture.close()
    return normalise(pixels, spec)


def _read(content: object, index: int, limits: PictureLimits) -> Image.Image:
    if isinstance(content, bytes):
        picture = _open(content, index)
    else:
        picture = Image.fromarray(_pixels(content, index))
    width, height = picture.size
    if width * height > limits.max_image_pixels:
        raise TooLargeError(
            f"picture {index}: {width} × {height} = {width * height} pixels: "
            f"expected at most {limits.max_image_pixels}"
        )
    return picture


def _open(content: bytes, index: int) -> Image.Image:
    for magic, reader in FORMATS.items():
        if content.startswith(magic):
            try:
                return reader(io.BytesIO(content))
            except _UNREADABLE as err:
                raise _unreadable(index, err) from err
    raise InvalidInputError(f"picture {index}: not an image: expected a PNG or JPEG file")


def _unreadable(index: int, err: BaseException) -> InvalidInputError:
    reason = str(err) or type(err).__name__
    return InvalidInputError(
        f"picture {index}: damaged file: {reason}: expected a complete PNG or JPEG file"
    )


def _pixels(content: object, index: int) -> NDArray[np.uint8]:
    """Shape: returns uint8 `[H, W]` or `[H, W, 3]`."""
    try:
        values = np.array(content)
    except (ValueError, OverflowError, MemoryError):
        raise InvalidInputError(
            f"picture {index}: rows of different lengths: expected an array {ARRAY_SHAPES}"
        ) from None
    if values.dtype.kind not in "iuf" and values.size:
        raise InvalidInputError(f"picture {index}: values that are not numbers: expected {VALUES}")
    _check_shape(values, index)
    _check_values(values, index)
    pixels: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _check_shape(values: NDArray[Any], index: int) -> None:
    shape = values.shape
    if values.size == 0:
        raise InvalidInputError(f"picture {index}: empty: expected an array {ARRAY_SHAPES}")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise InvalidInputError(
            f"picture {index}: an array of shape {list(shape)}: expected {ARRAY_SHAPES}"
        )


def _check_values(values: NDArray[Any], index: int) -> None:
    good = (values >= 0) & (values <= 255)  # false for NaN
    if not good.all():
        where = np.argwhere(~good)[0].tolist()
        raise InvalidInputError(
            f"picture {index}: value {values[tuple(where)]} at {where}: expected {VALUES}"
        )
    if values.dtype.kind == "f" and values.max() <= 1 and (values % 1).any():
        raise InvalidInputError(
            f"picture {index}: values between 0 and 1: expected {VALUES}, so multiply them by 255"
        )


def _rank(value: object) -> int:
    rank = 0
    while isinstance(value, list):
        rank += 1
        value = value[0] if value else None
    return rank
