"""The handwritten digits that scikit-learn ships: 1,797 pictures of 8 × 8, 17 grey levels.

Source: E. Alpaydin & C. Kaynak, "Optical recognition of handwritten digits", UCI (its test part).
"""

import hashlib

import numpy as np
from sklearn.datasets import load_digits as load_bundled_digits

from atril_common.model_config import ImageInput
from atril_training.datasets.files import FileSource
from atril_training.datasets.image_dataset import (
    ImageDataset,
    Split,
    fit_pictures,
    stratified_holdout,
)
from atril_training.errors import CorruptDataError

SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""Of the pixels (uint8, 0 … 16, row-major) followed by the targets (uint8)."""

LABELS = tuple("0123456789")

_TOP_LEVEL = 16
_SPLIT_SEED = 1998  # the splits are part of the data set: they do not follow the training seed
_TEST_FRACTION = 0.2
_VALIDATION_FRACTION = 0.1


def load_digits(image: ImageInput, _source: FileSource) -> ImageDataset:
    """All digits at the model's size; bundled, so nothing is read from the source.

    Grey level 0 … 16 becomes 0 … 255. A fifth of each class is the test split, a tenth of the rest
    validates.

    Raises:
        CorruptDataError: the installed scikit-learn ships other digits.
    """
    bundled = load_bundled_digits()
    levels = bundled.images.astype(np.uint8)
    targets = bundled.target.astype(np.int64)
    digest = hashlib.sha256(levels.tobytes() + targets.astype(np.uint8).tobytes()).hexdigest()
    if digest != SHA256:
        raise CorruptDataError(f"scikit-learn's digits: got SHA-256 {digest}, expected {SHA256}")
    scaled = np.rint(levels * (255 / _TOP_LEVEL)).astype(np.uint8)
    everything = Split(fit_pictures(scaled, image), targets)
    rest, test = stratified_holdout(targets, _TEST_FRACTION, _SPLIT_SEED)
    stay, held_out = stratified_holdout(targets[rest], _VALIDATION_FRACTION, _SPLIT_SEED)
    return ImageDataset(
        name="digits",
        labels=LABELS,
        train=everything.take(rest[stay]),
        validation=everything.take(rest[held_out]),
        test=everything.take(test),
        checksums={"scikit-learn digits": digest},
    )
