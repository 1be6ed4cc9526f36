"""Courses that forecast: what they learn, how they are judged, what is exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.tasks import ForecastTask
from atril_models.recurrent.forecasting import SequenceForecaster
from atril_training.baselines.autoregression import fit_autoregression
from atril_training.datasets import SeriesDataset, file_source
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import Optimization, at_most, find_recipe
from atril_training.recipes.sequential import ForecastRecipe
from atril_training.tasks.forecast import ForecastCourse

NOWHERE = file_source(Path("not read"))


def _short(epochs: int = 15) -> ForecastCourse:
    recipe = find_recipe("lstm-forecaster")
    assert isinstance(recipe, ForecastRecipe)
    optimization = replace(recipe.optimization, epochs=epochs)
    bars = (at_most("test_rmse", 0.06, baseline="test: autoregression by AIC"),)
    return ForecastCourse.prepare(replace(recipe, optimization=optimization, bars=bars), NOWHERE)


@pytest.fixture(scope="module")
def course() -> ForecastCourse:
    """The Mackey-Glass series with a bar that a short training meets; tests must not change it."""
    return _short()


@pytest.fixture(scope="module")
def trained(course: ForecastCourse) -> SequenceForecaster:
    """A finished short training; tests must not change its network."""
    network, _training = train_course(course, SilentReporter(), "cpu")
    assert isinstance(network, SequenceForecaster)
    return network


def test_a_short_training_beats_the_best_autoregression(
    course: ForecastCourse, trained: SequenceForecaster
) -> None:
    """The series is not linear, and a quarter of the recipe's epochs is enough to show it."""
    judgement = judge_course(course, trained)
    require_quality(course.recipe, judgement)
    assert judgement.figures["test_within_95"] == pytest.approx(0.95, abs=0.04)


def test_bar_fails_with_shuffled_targets(course: ForecastCourse) -> None:
    """A network that has learnt what follows other windows is refused."""
    shuffled = course.with_shuffled_targets(1)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_rmse is 0.*, the bar is at most 0.06"):
        require_quality(shuffled.recipe, judge_course(shuffled, network))


def _trend(**changes: object) -> ForecastCourse:
    """A growing season of 100 values on the logarithm's scale, with a fitted highway."""
    t = np.arange(100.0)
    noise = np.random.default_rng(0).normal(scale=0.01, size=100)
    values = np.exp(4 + 0.01 * t + 0.2 * np.sin(2 * np.pi * t / 12) + noise)
    dataset = SeriesDataset("trend", "pieces", values, 64, 84, {})
    recipe = ForecastRecipe(
        architecture="lstm-forecaster",
        dataset="airline",
        options={"hidden": 4, "lags": 6, "members": 2},
        window=8,
        scale="log",
        fit_highway=True,
        refit=True,
        optimization=Optimization(epochs=2, batch_size=16, peak_learning_rate=0.001),
        bars=(at_most("test_rmse", 8.0, baseline="test: last value again"),),
    )
    return ForecastCourse(replace(recipe, **changes), dataset)  # type: ignore[arg-type]


def test_highway_is_the_least_squares_autoregression_of_the_scaled_series() -> None:
    """With silent members the network forecasts as an autoregression of the logarithms does."""
    course = _trend(refit=False)
    network, _training = train_course(course, SilentReporter(), "cpu")
    assert isinstance(network, SequenceForecaster)
    with torch.no_grad():
        for output in network.outputs:
            torch.nn.init.zeros_(output.weight)  # type: ignore[arg-type]
            torch.nn.init.zeros_(output.bias)  # type: ignore[arg-type]
    sets = course.dataset
    logarithms = np.log(sets.values)
    # The windows have eight values, so that the first six-lag equation starts two values later.
    fitted = fit_autoregression(logarithms[2 : sets.train_end], 6)
    expected = np.exp(fitted.forecasts(logarithms, sets.validation_end))
    forecasts, _deviations = course.forecasts(network, sets.validation_end)
    np.testing.assert_allclose(forecasts, expected, rtol=1e-3)


def test_refitting_learns_the_validation_part_too() -> None:
    """Two fits, the second of which keeps its last epoch; the deviation is the first one's."""
    course = _trend()
    network, training = train_course(course, SilentReporter(), "cpu")
    assert isinstance(network, SequenceForecaster)
    first, second = training.fits
    assert (first.stage, second.stage) == ("", "with the validation part")
    assert second.best_epoch == 2
    assert bool((network.z_deviation > 0).all())
    once, _training = train_course(_trend(refit=False), SilentReporter(), "cpu")
    assert isinstance(once, SequenceForecaster)
    torch.testing.assert_close(network.z_deviation, once.z_deviation)
    assert not torch.equal(network.highway.weight, once.highway.weight)


def test_fitted_highway_does_not_see_through_shuffled_targets() -> None:
    """The autoregression is fitted to the shuffled targets as well."""
    course = _trend()
    honest, _training = train_course(course, SilentReporter(), "cpu")
    require_quality(course.recipe, judge_course(course, honest))
    shuffled = course.with_shuffled_targets(3)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match="test_rmse"):
        require_quality(shuffled.recipe, judge_course(shuffled, network))


def test_test_part_is_never_learnt_from() -> None:
    """Other values after the validation part give the same weights."""
    course = _trend()
    changed = course.dataset.values.copy()
    changed[course.dataset.validation_end :] *= 3
    other = ForecastCourse(course.recipe, replace(course.dataset, values=changed))
    first, second = (train_course(c, SilentReporter(), "cpu")[0] for c in (course, other))
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(one, same) for one, same in states)


def test_exports_take_windows_of_any_length_and_single_observations() -> None:
    """The step first, the whole last; parity for both, and a task that names them."""
    course = _trend()
    torch.manual_seed(0)
    step, sequence, whole = course.exports(course.build().eval())
    assert (step.suffix, sequence.suffix, whole.suffix) == ("-step", "-sequence", "")
    for export in (step, whole):
        assert measure_parity(export, export_graph(export)).failures() == ()
    assert isinstance(whole.task, ForecastTask)
    assert (whole.task.window, whole.task.horizon, whole.task.input.features) == (8, 1, ("pieces",))
    assert step.task is None


def test_task_does_not_depend_on_the_weights(
    course: ForecastCourse, trained: SequenceForecaster
) -> None:
    """A second training can be published beside the first: what the model is for is the same."""
    fresh = course.exports(course.build().eval())[-1].task
    assert course.exports(trained)[-1].task == fresh


def test_several_steps_ahead_are_learnt_and_answered_together() -> None:
    """A horizon of three gives three forecasts and three deviations."""
    course = _trend(options={"hidden": 4, "horizon": 3, "lags": 6}, refit=False)
    network, _training = train_course(course, SilentReporter(), "cpu")
    assert isinstance(network, SequenceForecaster)
    window = torch.from_numpy(course.dataset.values[None, -8:, None].astype(np.float32))
    with torch.no_grad():
        forecast, deviation = course.served(network)(window)
    assert forecast.shape == deviation.shape == (1, 3)
    assert network.highway.weight.shape == (3, 6)
    assert judge_course(course, network).figures["test_rmse"] > 0
