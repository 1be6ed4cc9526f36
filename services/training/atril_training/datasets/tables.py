"""Tables of measurements that scikit-learn ships, and one that it makes.

Diabetes: Efron, Hastie, Johnstone & Tibshirani 2004, "Least angle regression", Ann. Statist. 32.
Iris: Fisher 1936. Wine: Forina et al., PARVUS, UCI 1991. Breast cancer: Wolberg, Street &
Mangasarian, UCI 1995. Friedman: Friedman 1991, "Multivariate adaptive regression splines".
"""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets as bundled

from atril_training.datasets.feature_dataset import (
    Description,
    FeatureDataset,
    FeatureSplit,
    TailRange,
    split_rows,
)
from atril_training.errors import CorruptDataError

FRIEDMAN_ROWS = 2000
FRIEDMAN_NOISE_STD = 1.0
"""Standard deviation of what nobody can tell from the features: the least possible RMSE."""

_FRIEDMAN_SEED = 1991

_SHA256 = {
    "diabetes": "e9c1f7559552854a24dc45b41c446ce5f79f96e5da081bcce24b57492720b3f7",
    "iris": "18565d0da72dafd52595fe48b03ca9b06dfc2c05d0c4c155576631d0aae8eb7e",
    "wine": "c7e84e8e03b2b5a354287416d84d08945318450658a22a63c39973d8306c2ca4",
    "breast_cancer": "cdd5f37c36cbdfc2e5ee074cec7540fac54340874afb25917a673e446270d0d0",
}
"""Of the features (float64, little-endian, row-major) followed by the targets (float64)."""

_DIABETES_FEATURES = (
    "age (years)",
    "sex",
    "body mass index (kg/m²)",
    "mean blood pressure (mmHg)",
    "total serum cholesterol (mg/dl)",
    "low-density lipoproteins (mg/dl)",
    "high-density lipoproteins (mg/dl)",
    "total cholesterol / HDL",
    "log of serum triglycerides",
    "blood sugar (mg/dl)",
)


def load_diabetes() -> FeatureDataset:
    """442 patients: how far the disease will be in a year, from ten measurements.

    The tail is the tenth with the highest body mass index.

    Raises:
        CorruptDataError: the installed scikit-learn ships other numbers.
    """
    table = bundled.load_diabetes(scaled=False)
    description = Description(
        name="diabetes",
        features=_DIABETES_FEATURES,
        target="disease progression after one year",
        tail=TailRange(feature=2),
        checksums=_checked("diabetes", table.data, table.target),
    )
    return split_rows(_rows(table.data, table.target.astype(np.float64)), description)


def load_friedman() -> FeatureDataset:
    """2,000 rows of Friedman's first function, which is far from linear, with noise.

    y = 10 sin(π x1 x2) + 20 (x3 - 1/2)² + 10 x4 + 5 x5 + N(0, 1), of ten features that are uniform
    in 0 … 1; the last five tell nothing. The tail is the tenth with the largest x4.
    """
    features, targets = bundled.make_friedman1(
        FRIEDMAN_ROWS, n_features=10, noise=FRIEDMAN_NOISE_STD, random_state=_FRIEDMAN_SEED
    )
    description = Description(
        name="friedman",
        features=tuple(f"x{number}" for number in range(1, 11)),
        target="y",
        tail=TailRange(feature=3),
        checksums={"scikit-learn friedman": _digest(features, targets)},
    )
    return split_rows(_rows(features, targets), description)


def load_iris() -> FeatureDataset:
    """150 flowers of three species; the tail is the tenth with the narrowest sepals.

    Raises:
        CorruptDataError: the installed scikit-learn ships other numbers.
    """
    return _classes("iris", bundled.load_iris(), "species", TailRange(feature=1, largest=False))


def load_wine() -> FeatureDataset:
    """178 wines of three growers; the tail is the tenth with the most ash.

    Raises:
        CorruptDataError: the installed scikit-learn ships other numbers.
    """
    return _classes("wine", bundled.load_wine(), "grower", TailRange(feature=2))


def load_breast_cancer() -> FeatureDataset:
    """569 tumours, malignant or benign; the tail is the tenth with the largest fractal dimension.

    Raises:
        CorruptDataError: the installed scikit-learn ships other numbers.
    """
    table = bundled.load_breast_cancer()
    return _classes("breast_cancer", table, "diagnosis", TailRange(feature=9))


FEATURE_DATASETS: Mapping[str, Callable[[], FeatureDataset]] = MappingProxyType(
    {
        "diabetes": load_diabetes,
        "friedman": load_friedman,
        "iris": load_iris,
        "wine": load_wine,
        "breast_cancer": load_breast_cancer,
    }
)
"""How to load each table; all are bundled or made, so nothing is downloaded."""


def _classes(name: str, table: Any, target: str, tail: TailRange) -> FeatureDataset:
    """A classification set; tails are where all classes are found, most evenly at a tenth."""
    description = Description(
        name=name,
        features=tuple(feature.replace("_", " ") for feature in table.feature_names),
        target=target,
        labels=tuple(str(label) for label in table.target_names),
        tail=tail,
        checksums=_checked(name, table.data, table.target),
    )
    return split_rows(_rows(table.data, table.target.astype(np.int64)), description)


def _rows(features: NDArray[Any], targets: NDArray[Any]) -> FeatureSplit:
    return FeatureSplit(features.astype(np.float64), targets)


def _checked(name: str, features: NDArray[Any], targets: NDArray[Any]) -> dict[str, str]:
    digest = _digest(features, targets)
    if digest != _SHA256[name]:
        raise CorruptDataError(
            f"scikit-learn's {name}: got SHA-256 {digest}, expected {_SHA256[name]}"
        )
    return {f"scikit-learn {name}": digest}


def _digest(features: NDArray[Any], targets: NDArray[Any]) -> str:
    arrays = (np.ascontiguousarray(array, dtype="<f8").tobytes() for array in (features, targets))
    return hashlib.sha256(b"".join(arrays)).hexdigest()
