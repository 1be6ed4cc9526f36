"""Tables of numbers: what they hold and what is held out."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from atril_training.datasets import FEATURE_DATASETS, FeatureDataset, FeatureSplit, tables
from atril_training.datasets.feature_dataset import Description, TailRange, split_rows
from atril_training.datasets.tables import FRIEDMAN_NOISE_STD, load_friedman
from atril_training.errors import CorruptDataError

every_table = pytest.mark.parametrize("name", list(FEATURE_DATASETS))


def _splits(dataset: FeatureDataset) -> dict[str, FeatureSplit]:
    return {
        "train": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test,
        "tail": dataset.tail,
    }


@pytest.mark.parametrize(
    ("name", "features", "classes", "sizes"),
    [
        ("diabetes", 10, 0, (254, 64, 80, 44)),
        ("friedman", 10, 0, (1152, 288, 360, 200)),
        ("iris", 4, 3, (86, 22, 27, 15)),
        ("wine", 13, 3, (103, 25, 32, 18)),
        ("breast_cancer", 30, 2, (328, 81, 103, 57)),
    ],
)
def test_table_has_its_rows(
    name: str, features: int, classes: int, sizes: tuple[int, int, int, int]
) -> None:
    """Features, classes and rows of each split, which add up to those of the source."""
    dataset = FEATURE_DATASETS[name]()
    assert dataset.name == name
    assert len(dataset.features) == features
    assert len(dataset.labels) == classes
    assert tuple(len(split) for split in _splits(dataset).values()) == sizes
    assert all(split.features.shape[1] == features for split in _splits(dataset).values())
    assert [len(digest) for digest in dataset.checksums.values()] == [64]


@every_table
def test_splits_share_no_row(name: str) -> None:
    """No row that is judged on was learnt from; rows that occur twice in a source count as one."""
    splits = _splits(FEATURE_DATASETS[name]())
    rows = {
        split_name: {
            (*row, target)
            for row, target in zip(split.features.tolist(), split.targets, strict=True)
        }
        for split_name, split in splits.items()
    }
    shared = rows["train"] & (rows["test"] | rows["tail"])
    assert len(shared) <= (1 if name == "iris" else 0)  # Fisher measured two flowers alike


@pytest.mark.parametrize(
    ("name", "feature", "largest"),
    [
        ("diabetes", "body mass index (kg/m²)", True),
        ("friedman", "x4", True),
        ("iris", "sepal width (cm)", False),
        ("wine", "ash", True),
        ("breast_cancer", "mean fractal dimension", True),
    ],
)
def test_tail_is_a_whole_range(name: str, feature: str, largest: bool) -> None:
    """Every row of the tail is beyond, or at, every row that is not in it."""
    dataset = FEATURE_DATASETS[name]()
    column = dataset.features.index(feature)
    splits = _splits(dataset)
    held = splits.pop("tail").features[:, column]
    others = np.concatenate([split.features[:, column] for split in splits.values()])
    assert held.min() >= others.max() if largest else held.max() <= others.min()
    assert f"the {'largest' if largest else 'smallest'} {feature}" in dataset.held_out


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_classes_are_in_every_split(name: str) -> None:
    """Random splits have each class as often as the rest; in the tail none is missing."""
    dataset = FEATURE_DATASETS[name]()
    for split in _splits(dataset).values():
        assert set(split.targets.tolist()) == set(range(len(dataset.labels)))
    shares = [np.bincount(split.targets) / len(split) for split in (dataset.train, dataset.test)]
    assert np.abs(shares[0] - shares[1]).max() < 0.02


@every_table
def test_loading_again_gives_the_same(name: str) -> None:
    """Splits are part of the data set and do not follow any seed."""
    first, again = FEATURE_DATASETS[name](), FEATURE_DATASETS[name]()
    for split, same in zip(_splits(first).values(), _splits(again).values(), strict=True):
        assert np.array_equal(split.features, same.features)
        assert np.array_equal(split.targets, same.targets)


def test_friedmans_function_is_known_but_for_the_noise() -> None:
    """What remains after the formula has the stated deviation and no mean."""
    splits = _splits(load_friedman()).values()
    x = np.concatenate([split.features for split in splits])
    y = np.concatenate([split.targets for split in splits])
    formula = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    noise = y - (formula + 10 * x[:, 3] + 5 * x[:, 4])
    assert noise.std() == pytest.approx(FRIEDMAN_NOISE_STD, rel=0.05)
    assert abs(noise.mean()) < 4 * FRIEDMAN_NOISE_STD / np.sqrt(len(noise))


def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scikit-learn that ships something else is noticed, and the sums are named."""
    other = SimpleNamespace(
        data=np.zeros((2, 4)), target=np.zeros(2), feature_names=["a"] * 4, target_names=["b"]
    )
    monkeypatch.setattr(tables.bundled, "load_iris", lambda: other)
    digest = hashlib.sha256(bytes(8 * 10)).hexdigest()
    with pytest.raises(CorruptDataError, match=f"iris: got SHA-256 {digest}, expected 18565d0d"):
        tables.load_iris()


def test_equal_values_are_cut_by_the_order_of_the_rows() -> None:
    """Where the range ends among equal values the later rows are in it."""
    rows = FeatureSplit(np.ones((20, 1)), np.arange(20.0))
    description = Description(
        name="equal", features=("one",), target="row", tail=TailRange(0), checksums={}
    )
    assert split_rows(rows, description).tail.targets.tolist() == [18.0, 19.0]
