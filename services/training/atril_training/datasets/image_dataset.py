"""Labelled pictures in three splits.

Dimensions: N pictures, C channels, H height, W width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atril_common.imaging import pixels_from_image
from atril_common.tasks import ImageInput


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Pictures and what they show.

    Shape:
        pixels: uint8 [N, C, H, W], already of the model's size. targets: int64 [N], an index
        into the labels.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """The pictures at these positions, in this order."""
        return Split(self.pixels[indices], self.targets[indices])


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """A classification set: to learn from, to choose the best epoch on, and to judge with.

    `checksums` are SHA-256 sums of the data it was made from, by file; `held_out` says what the
    test splits are. `tail`, where there is one, is a second test split: a whole range of the data
    in its own order, none of which is in the others. It is harder than a split drawn at random,
    whose pictures have neighbours by the same hand among those that were learnt.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    checksums: Mapping[str, str]
    held_out: str
    tail: Split | None = None


def fit_pictures(greyscale: Iterable[NDArray[np.uint8]], image: ImageInput) -> NDArray[np.uint8]:
    """Bring pictures to the model's size exactly as serving does.

    Every picture goes through `pixels_from_image`, the function that a posted PNG goes through, so
    that a model never meets at work what it did not meet in training.

    Shape: each picture uint8 [height, width]; returns uint8 [N, C, H, W].
    """
    return np.stack([pixels_from_image(Image.fromarray(one), image) for one in greyscale])


def stratified_holdout(
    targets: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out the same fraction of every class, drawn at random.

    Returns:
        The positions that stay and the positions held out, each ascending.

    Raises:
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction held out must lie between 0 and 1, got {fraction}")
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == label))
        held_out[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
