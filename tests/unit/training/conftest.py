"""One short training on the bundled digits, shared by the tests that need its result."""

from dataclasses import replace
from pathlib import Path

import pytest

from atril_common.tasks import ImageInput
from atril_models import Network
from atril_training.card import Training
from atril_training.datasets import ImageDataset, file_source
from atril_training.export import Export, export_graph
from atril_training.fitting import SilentReporter
from atril_training.pipeline import train_course
from atril_training.recipes import RECIPES, at_least
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.tasks.pictures import PictureClassificationCourse


@pytest.fixture(scope="session")
def recipe() -> PictureClassificationRecipe:
    """LeNet-5's recipe in two epochs, with a bar that such a training meets."""
    full = RECIPES["lenet5", "digits"]
    assert isinstance(full, PictureClassificationRecipe)
    return replace(
        full,
        optimization=replace(full.optimization, epochs=2),
        bars=(at_least("test_accuracy", 0.9, baseline="test: nearest class mean"),),
    )


@pytest.fixture(scope="session")
def course(recipe: PictureClassificationRecipe) -> PictureClassificationCourse:
    """The recipe with the bundled digits; tests must not change it."""
    return PictureClassificationCourse.prepare(recipe, file_source(Path("not read")))


@pytest.fixture(scope="session")
def image(course: PictureClassificationCourse) -> ImageInput:
    """How LeNet-5 takes its pictures."""
    return course.image


@pytest.fixture(scope="session")
def digits(course: PictureClassificationCourse) -> ImageDataset:
    """The bundled digits at LeNet-5's size."""
    return course.dataset


@pytest.fixture(scope="session")
def trained(course: PictureClassificationCourse) -> tuple[Network, Training]:
    """A finished short training; tests must not change its network."""
    return train_course(course, SilentReporter(), "cpu")


@pytest.fixture(scope="session")
def export(course: PictureClassificationCourse, trained: tuple[Network, Training]) -> Export:
    """The trained network as it is exported."""
    (only,) = course.exports(trained[0])
    return only


@pytest.fixture(scope="session")
def onnx_model(export: Export) -> bytes:
    """The exported file."""
    return export_graph(export)
