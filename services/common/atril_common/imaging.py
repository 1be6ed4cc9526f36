"""Pictures to tensors: the one implementation that training, evaluation and serving share.

Shape letters: N pictures, C channels, H height, W width.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from atril_common.tasks import ImageInput

BACKGROUND = 0
"""What shows through transparent pixels: black, as the padding of a convolution."""

_MODES = {1: "L", 3: "RGB"}
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_MAX_16_BIT = 65535


def pixels_from_image(image: Image.Image, spec: ImageInput) -> NDArray[np.uint8]:
    """Turn upright, put on the background, convert to the model's mode and size (bilinear).

    Any mode that a PNG or JPEG file can have will do; 16-bit values are scaled to 8 bits. The image
    itself is not changed.

    Shape: returns uint8 `[C, H, W]`.
    """
    picture = _opaque(ImageOps.exif_transpose(image)).convert(_MODES[spec.channels])
    if picture.size != (spec.width, spec.height):
        picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def normalise(pixels: NDArray[np.uint8], spec: ImageInput) -> NDArray[np.float32]:
    """`(value / 255 - mean) / std`.

    Shape: uint8 `[…, C, H, W]` to float32 of the same shape.
    """
    mean = np.array(spec.mean, dtype=np.float32).reshape(-1, 1, 1)
    std = np.array(spec.std, dtype=np.float32).reshape(-1, 1, 1)
    return ((pixels.astype(np.float32) / np.float32(255) - mean) / std).astype(
        np.float32, copy=False
    )


def _opaque(image: Image.Image) -> Image.Image:
    """The same picture in 8 bits and without transparency."""
    if image.mode.startswith("I"):
        return _eight_bit(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        return Image.alpha_composite(canvas, image.convert("RGBA"))
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """A 16-bit greyscale picture in 8 bits; Pillow's own conversion clips every value over 255."""
    values = np.asarray(image).astype(np.int64)
    pixels = ((values.clip(0, _MAX_16_BIT) * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT).astype(
        np.uint8
    )
    transparent = image.info.get("transparency")
    if transparent is not None:
        pixels[values == transparent] = BACKGROUND
    return Image.fromarray(pixels)
