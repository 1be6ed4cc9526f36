"""The handwritten digits that scikit-learn ships: 1,797 pictures of 8 × 8, 17 grey levels.

Source: E. Alpaydin & C. Kaynak, "Optical recognition of handwritten digits", UCI (its test part).
"""

import hashlib

import numpy as np
from sklearn.datasets import load_digits as load_bundled_digits

from atril_common.tasks import ImageInput
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

TAIL_PICTURES = 180

_TOP_LEVEL = 16
_SPLIT_SEED = 1998  # the splits are part of the data set: they do not follow the training seed
_TEST_FRACTION = 0.2
_VALIDATION_FRACTION = 0.1


def load_digits(image: ImageInput, _source: FileSource) -> ImageDataset:
    """All digits at the model's size; bundled, so nothing is read from the source.

    Grey level 0 … 16 becomes 0 … 255. The last tenth of the file is held out as a range; of the
    rest a fifth of each class is the test split, and a tenth of what remains validates.

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
    head, tail = np.split(np.arange(len(targets)), [len(targets) - TAIL_PICTURES])
    rest, test = stratified_holdout(targets[head], _TEST_FRACTION, _SPLIT_SEED)
    stay, held_out = stratified_holdout(targets[rest], _VALIDATION_FRACTION, _SPLIT_SEED)
    return ImageDataset(
        name="digits",
        labels=LABELS,
        train=everything.take(rest[stay]),
        validation=everything.take(rest[held_out]),
        test=everything.take(test),
        checksums={"scikit-learn digits": digest},
        held_out=f"test: a fifth of each class, drawn at random from all but the tail; tail: the "
        f"last {TAIL_PICTURES} pictures in the order of the file",
        tail=everything.take(tail),
    )
