"""One short training on the bundled digits, shared by the tests that need its result."""

from dataclasses import replace
from pathlib import Path

import pytest

from atril_common.model_config import ImageInput
from atril_models import CATALOGUE, ClassifierWithProbabilities
from atril_training.datasets import DATASETS, ImageDataset, file_source
from atril_training.export import export_classifier
from atril_training.recipes import DEFAULT_RECIPE, QualityBar, Recipe
from atril_training.trainer import SilentReporter, TrainingRun, train


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The default recipe in two epochs, with a bar that such a training meets easily."""
    return replace(DEFAULT_RECIPE, epochs=2, bar=QualityBar("test_accuracy", 0.3))


@pytest.fixture(scope="session")
def image(recipe: Recipe) -> ImageInput:
    """How LeNet-5 takes its pictures."""
    return recipe.image_input(CATALOGUE[recipe.architecture].image)


@pytest.fixture(scope="session")
def digits(image: ImageInput) -> ImageDataset:
    """The bundled digits at LeNet-5's size."""
    return DATASETS["digits"](image, file_source(Path("not read")))


@pytest.fixture(scope="session")
def run(recipe: Recipe, digits: ImageDataset, image: ImageInput) -> TrainingRun:
    """A finished short training; tests must not change its network."""
    return train(recipe, digits, image, SilentReporter())


@pytest.fixture(scope="session")
def classifier(run: TrainingRun) -> ClassifierWithProbabilities:
    """The trained network as it is exported."""
    return ClassifierWithProbabilities(run.network).eval()


@pytest.fixture(scope="session")
def onnx_model(classifier: ClassifierWithProbabilities) -> bytes:
    """The exported file."""
    return export_classifier(classifier, (1, 32, 32))
