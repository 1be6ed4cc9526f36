"""Variational autoencoders: pictures as they are drawn, bounds, bars and exports."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.tasks import GenerationTask
from atril_training.datasets import file_source
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import RECIPES
from atril_training.recipes.autoencoding import VariationalRecipe
from atril_training.recipes.recipe import Optimization, at_most
from atril_training.tasks import prepare
from atril_training.tasks.autoencoding import grey_levels
from atril_training.tasks.variational import VariationalCourse


def _recipe(architecture: str = "vae", **changes: object) -> VariationalRecipe:
    recipe = RECIPES[architecture, "digits"]
    assert isinstance(recipe, VariationalRecipe)
    return replace(recipe, **changes)


def _course(recipe: VariationalRecipe) -> VariationalCourse:
    course = prepare(recipe, file_source(None))
    assert isinstance(course, VariationalCourse)
    return course


SHORT = Optimization(epochs=15, batch_size=32, peak_learning_rate=1e-2)


def test_short_run_meets_its_bar_and_shuffled_pixels_do_not() -> None:
    """A few epochs beat independent pixels; where pixels are independent there is nothing more."""
    bar = at_most("test_negative_elbo", 26.0, baseline="test: independent pixels")
    recipe = _recipe(optimization=SHORT, bars=(bar,))
    course = _course(recipe)
    network, _ = train_course(course, SilentReporter(), "cpu")
    judgement = judge_course(course, network)
    require_quality(recipe, judgement)
    assert judgement.figures["test_negative_iwae_64"] < judgement.figures["test_negative_elbo"]
    assert judgement.figures["test_kl"] > 0

    shuffled = course.with_shuffled_targets(0)
    network, _ = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_negative_elbo is .* the bar is at most 26"):
        require_quality(recipe, judge_course(shuffled, network))


def test_shuffled_pixels_keep_their_distribution() -> None:
    """Each pixel has the same values as before, in other pictures: correlations are gone."""
    course = _course(_recipe())
    before = course.wanted.reshape(len(course.wanted), -1)
    after = course.with_shuffled_targets(0).wanted.reshape(len(before), -1)
    assert np.array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    alive = before.std(axis=0) > 20
    correlations = [np.corrcoef(rows[:, alive].T) for rows in (before, after)]
    strongest = [np.abs(table - np.eye(alive.sum())).max() for table in correlations]
    assert strongest[0] > 0.6
    assert strongest[1] < 0.2


def test_bits_are_drawn_with_the_grey_level_as_probability() -> None:
    """Many draws of a level average to it; the test split is drawn once and for all."""
    course = _course(_recipe())
    levels = torch.full((1, 1, 200, 200), 0.3)
    drawn = course.drawn(levels, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.01)
    test = grey_levels(course.dataset.test.pixels)
    assert torch.equal(course.drawn_once(test), course.drawn_once(test))


def test_grey_levels_are_made_continuous() -> None:
    """Noise as wide as one of the 17 levels: rounding gives the level back."""
    course = _course(_recipe("gaussian-vae"))
    test = grey_levels(course.dataset.test.pixels)
    drawn = course.drawn_once(test)
    assert torch.equal(torch.round(drawn * 16), torch.round(test * 16))
    assert float((drawn - torch.round(test * 16) / 16).std()) == pytest.approx(
        1 / 16 / math.sqrt(12), rel=0.02
    )


def test_gaussian_decoder_is_compared_with_gaussians() -> None:
    """One with a full covariance fits better than independent pixels, on both test splits."""
    baselines = _course(_recipe("gaussian-vae")).baselines()
    for name in ("test", "tail"):
        assert baselines[f"{name}: one Gaussian"] < baselines[f"{name}: independent pixels"]


def test_divergence_counts_more_every_epoch_of_its_warm_up() -> None:
    """Over half of ten epochs its weight rises to 1; without a warm-up it is 1 at once."""
    course = _course(_recipe(divergence_warm_up=0.5))
    torch.manual_seed(0)
    objective = course.objective(course.build())
    batch = next(iter(objective.batches(torch.Generator().manual_seed(0))))
    losses = []
    for epoch in (1, 3, 5, 10):
        objective.epoch_started(epoch, 10)
        losses.append(float(objective.loss(batch).detach()))
    full = _course(_recipe()).objective(objective.network)
    full.epoch_started(1, 10)
    assert losses[0] < losses[1] < losses[2] == losses[3]
    assert float(full.loss(batch).detach()) == losses[3]


def test_exports_answer_with_the_distribution() -> None:
    """Encoder: mu and log variance; decoder: a picture; whole: the picture and both."""
    course = _course(_recipe())
    torch.manual_seed(0)
    exports = course.exports(course.build().eval())
    names = [[output.name for output in export.outputs] for export in exports]
    assert names == [
        ["mu", "log_variance"],
        ["reconstruction"],
        ["reconstruction", "mu", "log_variance"],
    ]
    for export in exports:
        assert not measure_parity(export, export_graph(export)).failures()
    task = exports[-1].task
    assert isinstance(task, GenerationTask)
    assert task.parts.code_shape == (8,)
