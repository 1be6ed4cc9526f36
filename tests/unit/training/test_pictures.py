"""Classification of pictures: what is learnt, judged and published."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.imaging import normalise
from atril_common.tasks import ClassificationTask, ImageInput
from atril_models import Network
from atril_training.card import Training
from atril_training.datasets import Split
from atril_training.export import Export
from atril_training.fitting import SilentReporter
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.tasks.pictures import (
    PictureClassificationCourse,
    evaluate,
    nearest_class_mean,
    normalised,
    shift_pictures,
)


def _weights(network: Network) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in network.state_dict().values()])


def _with_pictures(
    course: PictureClassificationCourse, count: int, **changes: object
) -> PictureClassificationCourse:
    """The course with fewer pictures to learn from, and another plan."""
    recipe = replace(course.recipe, optimization=replace(course.recipe.optimization, **changes))
    dataset = replace(course.dataset, train=course.dataset.train.take(np.arange(count)))
    return PictureClassificationCourse(recipe, course.image, dataset)


def test_training_learns(
    course: PictureClassificationCourse, trained: tuple[Network, Training]
) -> None:
    """Two epochs lower the loss and pass the bar."""
    network, training = trained
    (only,) = training.fits
    assert only.epochs[1].train_loss < only.epochs[0].train_loss
    require_quality(course.recipe, judge_course(course, network))


def test_bar_fails_when_the_targets_are_shuffled(course: PictureClassificationCourse) -> None:
    """The same training on labels that were dealt out at random is refused."""
    shuffled = course.with_shuffled_targets(seed=1)
    assert sorted(shuffled.dataset.train.targets) == sorted(course.dataset.train.targets)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_accuracy is 0\.\d+, the bar is at least 0\.9"):
        require_quality(shuffled.recipe, judge_course(shuffled, network))


def test_same_recipe_gives_the_same_weights_bit_for_bit(
    course: PictureClassificationCourse,
) -> None:
    """Neither the state of the default generator nor the process's threads make a difference."""
    small = _with_pictures(course, 200, epochs=1)
    torch.manual_seed(111)
    first, _ = train_course(small, SilentReporter(), "cpu")
    torch.manual_seed(222)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    second, _ = train_course(small, SilentReporter(), "cpu")
    torch.set_num_threads(threads)
    assert torch.equal(_weights(first), _weights(second))


def test_best_epoch_is_chosen_on_the_validation_split(
    course: PictureClassificationCourse,
) -> None:
    """The weights kept are those with the best validation figures, not the last ones."""
    # At this rate and with these few pictures the figures go up and down.
    wild = _with_pictures(course, 64, epochs=8, peak_learning_rate=0.1, warm_up_fraction=0.9)
    network, training = train_course(wild, SilentReporter(), "cpu")
    (only,) = training.fits
    ranks = [(e.validation["accuracy"], -e.validation["loss"]) for e in only.epochs]
    assert ranks.index(max(ranks)) + 1 == only.best_epoch
    kept = evaluate(network, wild.dataset.validation, wild.image)
    assert kept == pytest.approx(dict(only.epochs[only.best_epoch - 1].validation))


def test_test_splits_do_not_influence_training(course: PictureClassificationCourse) -> None:
    """With other test pictures the weights are the same."""
    small = _with_pictures(course, 200, epochs=1)
    dataset = replace(small.dataset, test=small.dataset.test.take(np.arange(100)), tail=None)
    other = PictureClassificationCourse(small.recipe, small.image, dataset)
    runs = [train_course(one, SilentReporter(), "cpu")[0] for one in (small, other)]
    assert torch.equal(_weights(runs[0]), _weights(runs[1]))


def test_evaluation_counts_errors_and_averages_the_loss(image: ImageInput) -> None:
    """A network that always says class 0 errs on all others; the loss is the mean of -log p."""

    class AlwaysZero(Network):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor([[3.0, 1.0]]).log())

        def example_inputs(self, batch: int = 1) -> tuple[torch.Tensor]:
            return (torch.zeros(batch, 1, 32, 32),)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(pictures), 2)

    split = Split(np.zeros((1200, 1, 32, 32), np.uint8), np.arange(1200) % 2)
    figures = evaluate(AlwaysZero(), split, image)
    assert (figures["errors"], figures["accuracy"]) == (600, 0.5)
    # softmax of (log 3, 0) is (3/4, 1/4)
    assert figures["loss"] == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-5)


def test_pictures_are_normalised_as_in_serving(course: PictureClassificationCourse) -> None:
    """Bit for bit what a posted picture becomes."""
    pixels = course.dataset.test.pixels
    ours = normalised(torch.from_numpy(pixels), course.image).numpy()
    assert np.array_equal(ours, normalise(pixels, course.image))


def test_shift_moves_each_picture_as_a_whole() -> None:
    """Every result is the picture moved by at most the limit, with background where it left."""
    picture = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 5, 5)
    padded = torch.nn.functional.pad(picture, (2, 2, 2, 2))
    allowed = {
        bytes(padded[:, y : y + 5, x : x + 5].flatten().tolist())
        for y in range(5)
        for x in range(5)
    }
    generator = torch.Generator().manual_seed(0)
    shifted = shift_pictures(picture.expand(500, 1, 5, 5), 2, generator)
    assert shifted.shape == (500, 1, 5, 5)
    assert {bytes(one.flatten().tolist()) for one in shifted} == allowed


def test_recipe_without_shifts_uses_the_pictures_as_they_are(
    course: PictureClassificationCourse,
) -> None:
    """With one step an epoch and no shift, the first loss is that of the untouched pictures."""
    one_step = _with_pictures(course, 32, epochs=1)
    recipe: PictureClassificationRecipe = replace(one_step.recipe, max_shift=0)
    still = PictureClassificationCourse(recipe, course.image, one_step.dataset)
    _network, training = train_course(still, SilentReporter(), "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = still.build()
    pictures = torch.from_numpy(normalise(still.dataset.train.pixels, course.image))
    targets = torch.from_numpy(still.dataset.train.targets)
    expected = torch.nn.functional.cross_entropy(network(pictures), targets)
    assert training.fits[0].epochs[0].train_loss == pytest.approx(expected.item(), rel=1e-5)


def test_nearest_class_mean_by_hand() -> None:
    """Means 0 and 200: 90 is nearer to the first, 110 to the second."""
    train = Split(np.uint8([0, 0, 190, 210]).reshape(4, 1, 1, 1), np.array([0, 0, 1, 1]))
    test = Split(np.uint8([90, 110, 0, 255]).reshape(4, 1, 1, 1), np.array([0, 1, 0, 0]))
    assert nearest_class_mean(train, test) == 0.75


def test_published_facts_are_those_of_the_data(export: Export, image: ImageInput) -> None:
    """A classifier of ten digits, called by its probabilities."""
    assert export.task == ClassificationTask(image, "probabilities", tuple("0123456789"))
    assert export.labels == tuple("0123456789")
    assert [spec.labelled for spec in export.outputs] == [False, True]
