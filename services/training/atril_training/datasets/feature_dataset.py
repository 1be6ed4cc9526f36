"""Rows of named numbers in three or four splits.

Dimensions: N rows, P features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atril_training.datasets.image_dataset import stratified_holdout

_SPLIT_SEED = 1998  # the splits are part of the data set: they do not follow the training seed
_TAIL_FRACTION = 0.1
_TEST_FRACTION = 0.2
_VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSplit:
    """Rows and what is to be told from them.

    Shape:
        features: float64 [N, P], in their own units. targets: [N], float64 in its own unit, or
        int64, an index into the labels.
    """

    features: NDArray[np.float64]
    targets: NDArray[Any]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: NDArray[np.int64]) -> "FeatureSplit":
        """The rows at these positions, in this order."""
        return FeatureSplit(self.features[indices], self.targets[indices])


@dataclass(frozen=True, slots=True, eq=False)
class FeatureDataset:
    """A set to learn from, to choose the best epoch on, and to judge with.

    Args:
        name: of the set.
        features: the name of each, with its unit where it has one.
        target: what is to be told, with its unit where it has one.
        labels: of the classes; none where the target is a number.
        test: drawn at random.
        tail: a whole range of one feature, none of which is in the other splits: who learns from
            them has to extrapolate.
        checksums: SHA-256 sums of the data it was made from.
        held_out: what the two test splits are.
    """

    name: str
    features: tuple[str, ...]
    target: str
    labels: tuple[str, ...]
    train: FeatureSplit
    validation: FeatureSplit
    test: FeatureSplit
    tail: FeatureSplit
    checksums: Mapping[str, str]
    held_out: str


@dataclass(frozen=True, slots=True)
class TailRange:
    """Which range is held out: the tenth of the rows with the most, or least, of a feature."""

    feature: int
    largest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a set's rows are: the fields of `FeatureDataset` that are not rows."""

    name: str
    features: tuple[str, ...]
    target: str
    labels: tuple[str, ...] = ()
    tail: TailRange
    checksums: Mapping[str, str]


def split_rows(rows: FeatureSplit, description: Description) -> FeatureDataset:
    """Hold out a range, then a fifth of the rest at random, and validate on a fifth of what stays.

    Among equal values of the feature the later rows are in the range. Classes keep their shares in
    the random splits.
    """
    tail = description.tail
    values = rows.features[:, tail.feature]
    order = np.argsort(values if tail.largest else -values, kind="stable")
    size = round(_TAIL_FRACTION * len(rows))
    head, held = np.sort(order[:-size]), np.sort(order[-size:])
    rest, test = _holdout(rows, head, _TEST_FRACTION, described=description)
    train, validation = _holdout(rows, rest, _VALIDATION_FRACTION, described=description)
    side = "largest" if tail.largest else "smallest"
    return FeatureDataset(
        name=description.name,
        features=description.features,
        target=description.target,
        labels=description.labels,
        train=rows.take(train),
        validation=rows.take(validation),
        test=rows.take(test),
        tail=rows.take(held),
        checksums=description.checksums,
        held_out=f"tail: the {size} rows with the {side} {description.features[tail.feature]}; "
        f"test: a fifth of the others, drawn at random",
    )


def _holdout(
    rows: FeatureSplit, among: NDArray[np.int64], fraction: float, *, described: Description
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions that stay and positions held out, among those given."""
    one_class = np.zeros(len(among), dtype=np.int64)
    classes = rows.targets[among] if described.labels else one_class
    stay, held_out = stratified_holdout(classes, fraction, _SPLIT_SEED)
    return among[stay], among[held_out]
