"""Series of numbers, in the order of time.

A series is never shuffled: the first part is learnt from, the next one chooses the best epoch, and
the last one judges.

Dimensions: N observations.
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atril_training.datasets.files import DataFile, FileSource
from atril_training.errors import CorruptDataError


@dataclass(frozen=True, slots=True, eq=False)
class SeriesDataset:
    """A series, and where its parts end.

    Args:
        name: of the set.
        quantity: what was observed, with its unit.
        values: float64 [N].
        train_end: the observations before this one are to learn from.
        validation_end: those from there to before this one choose the best epoch; all that follow
            are to judge with.
        checksums: SHA-256 sums of the data it was made from, by file.
    """

    name: str
    quantity: str
    values: NDArray[np.float64]
    train_end: int
    validation_end: int
    checksums: Mapping[str, str]

    def __post_init__(self) -> None:
        if not 0 < self.train_end < self.validation_end < len(self.values):
            raise ValueError(
                f"the parts of {self.name} must follow each other, got {len(self.values)} "
                f"observations with ends at {self.train_end} and {self.validation_end}"
            )

    @property
    def held_out(self) -> str:
        """The test split in words."""
        return (
            f"test: the last {len(self.values) - self.validation_end} of {len(self.values)} "
            f"observations, one step ahead each"
        )


MACKEY_GLASS_SHA256 = "3af9597e630e39beff4a007dc31535913fa9b864880b890837e3df6a318ce1e8"
"""Of the values in single precision, little-endian."""

_DELAY, _STEP = 17.0, 0.1
_SAMPLE_EVERY = 6.0
_WASHOUT = 300.0
_NOISE_STD = 0.02
_NOISE_SEED = 1977
_OBSERVATIONS = 1_500


def load_mackey_glass(_source: FileSource) -> SeriesDataset:
    """The chaotic series of a blood-cell model, with a little noise of observation; made here.

    dx/dt = 0.2 x(t-17) / (1 + x(t-17)^10) - 0.1 x(t), integrated by Euler's method with steps of
    0.1 from x = 1.2, observed every 6 units of time after the first 300, plus N(0, 0.02²): nobody
    can forecast an observation with an RMSE below 0.02.

    Source: Mackey & Glass 1977, "Oscillation and chaos in physiological control systems", Science
    197.

    Raises:
        CorruptDataError: numpy draws other noise.
    """
    noise = np.random.default_rng(_NOISE_SEED).normal(scale=_NOISE_STD, size=_OBSERVATIONS)
    values = _mackey_glass(_OBSERVATIONS) + noise
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    if digest != MACKEY_GLASS_SHA256:
        raise CorruptDataError(
            f"Mackey-Glass series: got SHA-256 {digest}, expected {MACKEY_GLASS_SHA256}"
        )
    return SeriesDataset(
        name="mackey_glass",
        quantity="concentration",
        values=values,
        train_end=850,
        validation_end=1_000,
        checksums={"generated series": digest},
    )


def _mackey_glass(observations: int) -> NDArray[np.float64]:
    delay = round(_DELAY / _STEP)
    x = [1.2] * (delay + 1)
    for _ in range(round((_WASHOUT + observations * _SAMPLE_EVERY) / _STEP)):
        # Only sums and products, which are the same on every machine: the series is chaotic.
        past = x[-1 - delay]
        square = past * past
        tenth = square * square * square * square * square
        x.append(x[-1] + _STEP * (0.2 * past / (1 + tenth) - 0.1 * x[-1]))
    every, start = round(_SAMPLE_EVERY / _STEP), delay + 1 + round(_WASHOUT / _STEP)
    return np.array(x[start::every][:observations])


_URL = (
    "https://raw.githubusercontent.com/jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f/"
)


def _file(name: str, size_bytes: int, sha256: str) -> DataFile:
    return DataFile("series", name, size_bytes, sha256, (_URL + name,))


AIRLINE = _file(
    "airline-passengers.csv",
    2180,
    "8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621",
)
TEMPERATURES = _file(
    "daily-min-temperatures.csv",
    67921,
    "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
)
SUNSPOTS = _file(
    "monthly-sunspots.csv",
    45039,
    "c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3",
)

_TEST_FROM = 0.67
"""Of the observations, as in the tutorials that made these series popular; and of those before,
the last fifth validates."""
_VALIDATION_FROM = 0.8


def load_airline(source: FileSource) -> SeriesDataset:
    """International airline passengers, 1949 to 1960: 144 months (Box & Jenkins 1976, series G)."""
    return _from_csv("airline", "thousand passengers a month", AIRLINE, source)


def load_temperatures(source: FileSource) -> SeriesDataset:
    """Daily minimum temperatures of Melbourne, 1981 to 1990: 3,650 days."""
    return _from_csv("temperatures", "°C", TEMPERATURES, source)


def load_sunspots(source: FileSource) -> SeriesDataset:
    """Monthly sunspot numbers of Zurich, version 1, 1749 to 1983: 2,820 months."""
    return _from_csv("sunspots", "sunspot number", SUNSPOTS, source)


def _from_csv(name: str, quantity: str, file: DataFile, source: FileSource) -> SeriesDataset:
    rows = list(csv.reader(io.StringIO(source.read(file).decode())))[1:]
    values = np.array([float(value) for _date, value in rows])
    test_from = int(len(values) * _TEST_FROM)
    return SeriesDataset(
        name=name,
        quantity=quantity,
        values=values,
        train_end=int(test_from * _VALIDATION_FROM),
        validation_end=test_from,
        checksums={file.name: file.sha256},
    )
