"""Pictures to tensors: the one implementation that training, evaluation and serving share.

Shape letters: N pictures, C channels, H height, W width.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atril_common.model_config import ImageInput

_MODES = {1: "L", 3: "RGB"}


def pixels_from_image(image: Image.Image, spec: ImageInput) -> NDArray[np.uint8]:
    """Convert to the model's mode and size (bilinear).

    Shape: returns uint8 `[C, H, W]`.
    """
    picture = image.convert(_MODES[spec.channels])
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
