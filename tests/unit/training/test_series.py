"""Series, and the linear forecasts that a network has to beat."""

from pathlib import Path

import numpy as np
import pytest

from atril_training.baselines.autoregression import (
    Autoregression,
    choose_lags,
    fit_autoregression,
    persistence,
    root_mean_square,
)
from atril_training.datasets import SERIES_DATASETS, SeriesDataset, file_source
from atril_training.datasets.files import FolderSource

NOWHERE = FolderSource(Path("not read"))


def test_mackey_glass_obeys_its_equation() -> None:
    """Without its noise, a shorter step of the integration gives nearly the same beginning."""
    series = SERIES_DATASETS["mackey_glass"](NOWHERE)
    step, delay, x = 0.05, 340, [1.2] * 341
    for _ in range(round((300 + 60) / step)):
        past = x[-1 - delay]
        x.append(x[-1] + step * (0.2 * past / (1 + past**10) - 0.1 * x[-1]))
    finer = np.array(x[delay + 1 + round(300 / step) :: round(6 / step)][:10])
    assert np.abs(series.values[:10] - finer).max() < 5 * 0.02
    assert len(series.values) == 1_500


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("airline", 144, 112.0, 432.0),
        ("temperatures", 3650, 20.7, 13.0),
        ("sunspots", 2820, 58.0, 33.4),
    ],
)
def test_real_series_are_read_whole(
    name: str, count: int, first: float, last: float, shared: Path
) -> None:
    """As many observations as published, from the first to the last."""
    series = SERIES_DATASETS[name](file_source(shared / "data"))
    assert (len(series.values), series.values[0], series.values[-1]) == (count, first, last)
    assert series.validation_end == int(0.67 * count)


@pytest.mark.parametrize(
    ("name", "lags", "expected"),
    [
        ("sunspots", 27, 16.73),
        ("sunspots", 3, 17.39),
        ("airline", 12, 20.95),
        ("airline", 3, 44.46),
    ],
)
def test_autoregressions_reach_their_known_errors(
    name: str, lags: int, expected: float, shared: Path
) -> None:
    """Fitted to the first 67 %, one step ahead on the rest."""
    series = SERIES_DATASETS[name](file_source(shared / "data"))
    start, values = series.validation_end, series.values
    forecasts = fit_autoregression(values[:start], lags).forecasts(values, start)
    assert root_mean_square(forecasts - values[start:]) == pytest.approx(expected, abs=0.006)


def test_persistence_on_sunspots(shared: Path) -> None:
    """The last value again is 18.40 off."""
    series = SERIES_DATASETS["sunspots"](file_source(shared / "data"))
    start, values = series.validation_end, series.values
    errors = persistence().forecasts(values, start) - values[start:]
    assert root_mean_square(errors) == pytest.approx(18.40, abs=0.005)


def test_autoregression_is_found_again() -> None:
    """What a known recurrence has made is fitted exactly, and its order chosen by AIC."""
    noise = np.random.default_rng(0).normal(size=3_000)
    x = [0.0, 0.0]
    for shock in noise:
        x.append(3 + 0.6 * x[-1] - 0.5 * x[-2] + shock)
    values = np.array(x)
    fitted = fit_autoregression(values, 2)
    np.testing.assert_allclose(fitted.weights, [-0.5, 0.6], atol=0.04)
    assert fitted.bias == pytest.approx(3, abs=0.2)
    assert choose_lags(values, 10) == 2


def test_forecasts_use_what_came_before_and_nothing_else() -> None:
    """x(t) = 2 x(t-1) + 10 x(t-2) + 1 on 1, 2, 3, 4."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    forecasts = Autoregression(np.array([10.0, 2.0]), 1.0).forecasts(values, 2)
    np.testing.assert_allclose(forecasts, [10 * 1 + 2 * 2 + 1, 10 * 2 + 2 * 3 + 1])


@pytest.mark.parametrize("start", [0, 1])
def test_forecasts_need_their_lags(start: int) -> None:
    """Before there are as many values as lags nothing can be said."""
    with pytest.raises(ValueError, match=f"2 lags need as many values before, got {start}"):
        Autoregression(np.ones(2), 0.0).forecasts(np.ones(5), start)


@pytest.mark.parametrize(("count", "lags"), [(5, 0), (5, 3)])
def test_too_few_values_for_the_lags_are_refused(count: int, lags: int) -> None:
    """The error says how many of each."""
    with pytest.raises(ValueError, match=f"{lags} lags cannot be fitted to {count} values"):
        fit_autoregression(np.arange(float(count)), lags)


@pytest.mark.parametrize(("train_end", "validation_end"), [(0, 5), (5, 5), (5, 10), (6, 5)])
def test_parts_of_a_series_follow_each_other(train_end: int, validation_end: int) -> None:
    """Empty parts and parts in another order are refused."""
    with pytest.raises(ValueError, match="the parts of x must follow each other, got 10"):
        SeriesDataset("x", "m", np.zeros(10), train_end, validation_end, {})
