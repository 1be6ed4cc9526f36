"""Denoising autoencoders: noise, simple methods, bars and exports."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.tasks import DenoisingTask
from atril_models.autoencoders.corruption import GaussianNoise, Masking, SaltAndPepper
from atril_training.datasets import file_source
from atril_training.fitting import SilentReporter
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import RECIPES
from atril_training.recipes.autoencoding import DenoisingRecipe, Noise
from atril_training.recipes.recipe import Optimization, at_least
from atril_training.tasks import prepare
from atril_training.tasks.autoencoding import grey_levels
from atril_training.tasks.denoising import DenoisingCourse, linear_noise


def _short() -> DenoisingRecipe:
    recipe = RECIPES["denoising-autoencoder", "digits"]
    assert isinstance(recipe, DenoisingRecipe)
    return replace(
        recipe,
        options={"widths": (96,), "activation": "elu"},
        optimization=Optimization(epochs=12, batch_size=32, peak_learning_rate=5e-3),
        bars=(at_least("test_psnr_db", 14.5, baseline="test: clipping"),),
    )


def _course(recipe: DenoisingRecipe) -> DenoisingCourse:
    course = prepare(recipe, file_source(None))
    assert isinstance(course, DenoisingCourse)
    return course


def test_short_run_meets_its_bar_and_shuffled_targets_do_not() -> None:
    """A few epochs beat clipping; learnt against other digits, it gives back their mean."""
    recipe = _short()
    course = _course(recipe)
    network, _ = train_course(course, SilentReporter(), "cpu")
    judgement = judge_course(course, network)
    require_quality(recipe, judgement)
    gain = judgement.figures["test_psnr_db"] - judgement.baselines["test: best simple method"]
    assert judgement.figures["test_gain_db"] == pytest.approx(gain)

    shuffled = course.with_shuffled_targets(0)
    network, _ = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_psnr_db is .* the bar is at least 14.5"):
        require_quality(recipe, judge_course(shuffled, network))


def test_best_simple_method_is_the_best_of_those_measured() -> None:
    """It is the largest of the others, and beats clipping."""
    baselines = _course(_short()).baselines()
    of_test = {
        name.removeprefix("test: "): value
        for name, value in baselines.items()
        if name.startswith("test: ") and not name.endswith("gain")
    }
    best = of_test.pop("best simple method")
    assert best == max(of_test.values()) > of_test["clipping"]
    assert set(of_test) == {
        "clipping",
        "principal components",
        "best linear estimate",
        "median of nine",
        "non-local means",
    }


def test_judgement_has_always_the_same_noise() -> None:
    """The spoilt test pictures are the same for every network, and of the recipe's noise."""
    course = _course(_short())
    clean = grey_levels(course.dataset.test.pixels)
    assert torch.equal(course.spoilt(clean), course.spoilt(clean))
    assert float((course.spoilt(clean) - clean).std()) == pytest.approx(0.3, rel=0.02)


def test_learning_draws_new_noise_in_every_epoch() -> None:
    """The same pictures come spoilt in another way, and the clean ones beside them."""
    course = _course(_short())
    objective = course.objective(course.build())
    generator = torch.Generator().manual_seed(0)
    epochs = [list(objective.batches(generator)) for _ in range(2)]
    noises = [torch.cat([given - wanted for given, wanted in epoch]) for epoch in epochs]
    assert len(epochs[0]) == objective.steps
    assert not torch.equal(*noises)
    for noise in noises:
        assert float(noise.std()) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "corruption"),
    [("gaussian", GaussianNoise), ("salt-and-pepper", SaltAndPepper), ("masking", Masking)],
)
def test_moments_of_each_noise(kind: str, corruption: type) -> None:
    """Mean and mean square of what a grey level becomes are those that the linear method uses."""
    noise = Noise(kind, 0.3)  # type: ignore[arg-type]  # one of the three names
    assert isinstance(noise.corruption(), corruption)
    moments = linear_noise(noise)
    level = 0.6
    picture = torch.full((1, 1, 500, 500), level)
    spoilt = noise.corruption()(picture, torch.Generator().manual_seed(0)).numpy()
    assert np.mean(spoilt) == pytest.approx(moments.kept * level + moments.offset, abs=0.005)
    expected = moments.kept * level**2 + moments.power
    assert np.mean(spoilt**2) == pytest.approx(expected, abs=0.005)


def test_whole_is_served_for_denoising() -> None:
    """The task says what noise it is for, and parity is measured on pictures with that noise."""
    course = _course(_short())
    whole = course.exports(course.build().eval())[-1]
    assert isinstance(whole.task, DenoisingTask)
    assert (whole.task.noise, whole.task.strength, whole.task.any_size) == ("gaussian", 0.3, False)
    assert whole.task.parts is not None
    assert float(whole.cases[0].batches[0][0].min()) < 0
