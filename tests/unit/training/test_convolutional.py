"""The recipes of the convolutional networks, and what they need of the course of pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from atril_common.errors import RefusedError
from atril_models import CATALOGUE, Family
from atril_models.googlenet import GoogLeNet
from atril_models.image_classifier import ImageClassifier
from atril_training.datasets import file_source
from atril_training.export import BATCH_DIMENSION, export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import find_recipe
from atril_training.recipes.convolutional import RECIPES
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.tasks.pictures import PictureClassificationCourse, PictureObjective

CONVOLUTIONAL = [name for name, entry in CATALOGUE.items() if entry.family is Family.CONVOLUTIONAL]


def _course(architecture: str) -> PictureClassificationCourse:
    recipe = find_recipe(architecture)
    assert isinstance(recipe, PictureClassificationRecipe)
    return PictureClassificationCourse.prepare(recipe, file_source(Path("not read")))


def _hurried(course: PictureClassificationCourse, pictures: int) -> PictureClassificationCourse:
    """One epoch on fewer pictures."""
    optimization = replace(course.recipe.optimization, epochs=1)
    dataset = replace(course.dataset, train=course.dataset.train.take(np.arange(pictures)))
    return PictureClassificationCourse(
        replace(course.recipe, optimization=optimization), course.image, dataset
    )


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_network_has_the_classes_and_the_pictures_of_its_data(architecture: str) -> None:
    """The default recipe builds a network for ten digits of the size that the data come in."""
    course = _course(architecture)
    network = course.build().eval()
    pictures = torch.zeros(2, *course.dataset.train.pixels.shape[1:])
    assert network(pictures).shape == (2, 10)
    if isinstance(network, ImageClassifier):
        assert network.image == course.recipe.picture


def test_slim_forms_are_slim() -> None:
    """No default recipe trains more than a million parameters."""
    for architecture in CONVOLUTIONAL:
        with torch.device("meta"):
            network = _course(architecture).build()
        assert sum(p.numel() for p in network.parameters()) < 1_000_000


def test_options_of_the_recipe_have_the_last_word() -> None:
    """A recipe may ask for other classes than the data have, as for outputs that nothing uses."""
    course = _course("vgg11")
    recipe = replace(course.recipe, options={**course.recipe.options, "classes": 12})
    other = PictureClassificationCourse(recipe, course.image, course.dataset)
    assert other.options() == {"classes": 12, "side": 32, "channels": 1, "width": 0.125}


def test_auxiliary_heads_are_trained_with_their_weight() -> None:
    """The loss is that of the logits and 0.3 times that of each head; validation has no heads."""
    course = _course("googlenet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = course.build().eval()  # without dropout two passes are the same
    assert isinstance(network, GoogLeNet)
    objective = PictureObjective(network, course.recipe, course.image, course.dataset)
    pictures, targets = next(objective.batches(torch.Generator().manual_seed(0)))
    logits, auxiliary = network.logits_and_auxiliary(pictures)
    assert len(auxiliary) == 2
    expected = functional.cross_entropy(logits, targets) + 0.3 * sum(
        functional.cross_entropy(head, targets) for head in auxiliary
    )
    torch.testing.assert_close(objective.loss((pictures, targets)), expected)


def test_auxiliary_heads_learn_and_are_not_exported() -> None:
    """A short training moves their weights; the file has none of them."""
    course = _hurried(_course("googlenet"), 64)
    torch.manual_seed(course.recipe.seed)
    before = course.build().state_dict()
    network, _training = train_course(course, SilentReporter(), "cpu")
    learnt = network.state_dict()
    heads = [key for key in learnt if key.startswith("auxiliary")]
    assert heads
    assert not any(torch.equal(before[key], learnt[key]) for key in heads)
    (export,) = course.exports(network)
    served = sum(p.numel() for key, p in learnt.items() if key not in heads)
    size_bytes = len(export_graph(export))
    assert 4 * served < size_bytes < 4 * served + 50_000


# One for each kind of layer that an exporter may get wrong: response normalisation and groups,
# pooling that rounds up, and batch normalisation that is folded into a convolution.
@pytest.mark.parametrize("architecture", ["alexnet", "nin-cifar10", "resnet18"])
def test_barely_trained_network_is_exported_in_parity(architecture: str) -> None:
    """ONNX Runtime answers as PyTorch does at batches of 1, 7 and 64 pictures."""
    course = _hurried(_course(architecture), 64)
    network, _training = train_course(course, SilentReporter(), "cpu")
    (export,) = course.exports(network)
    parity = measure_parity(export, export_graph(export))
    assert parity.failures() == ()
    assert [case.sizes[BATCH_DIMENSION] for case in parity.cases] == [1, 7, 64]


@pytest.mark.parametrize("shuffled", [False, True], ids=["true targets", "shuffled targets"])
def test_bar_measures_learning(shuffled: bool) -> None:
    """A third of ResNet-18's training passes a bar above its baseline; on shuffled labels it fails.

    The bar is set for the short training; the recipe's own is proven by the whole catalogue.
    """
    full = _course("resnet18")
    bars = tuple(
        replace(bar, bound=bound) for bar, bound in zip(full.recipe.bars, (0.92, 0.88), strict=True)
    )
    optimization = replace(full.recipe.optimization, epochs=4)
    recipe = replace(full.recipe, bars=bars, optimization=optimization)
    course = PictureClassificationCourse(recipe, full.image, full.dataset)
    if not shuffled:
        network, _training = train_course(course, SilentReporter(), "cpu")
        require_quality(recipe, judge_course(course, network))
        return
    network, _training = train_course(course.with_shuffled_targets(1), SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_accuracy is 0\.\d+, the bar is at least 0\.92"):
        require_quality(recipe, judge_course(course, network))


def test_every_convolutional_network_has_a_recipe_with_both_bars() -> None:
    """On the digits each is held to a random split and to the tail of the file."""
    digits = {r.architecture: r for r in RECIPES if r.dataset == "digits"}
    assert set(digits) == set(CONVOLUTIONAL)
    for recipe in digits.values():
        assert [bar.metric for bar in recipe.bars] == ["test_accuracy", "tail_accuracy"]
