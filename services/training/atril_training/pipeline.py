"""From a recipe to a published model: train, judge, export, prove, publish."""

from dataclasses import dataclass
from pathlib import Path

from atril_common.errors import RefusedError
from atril_common.imaging import normalise
from atril_common.model_config import ClassificationTask
from atril_models import CATALOGUE, ClassifierWithProbabilities
from atril_training.card import build_card
from atril_training.configuration import classifier_config
from atril_training.datasets import DATASETS, FileSource
from atril_training.export import PROBABILITIES_NAME, export_classifier
from atril_training.parity import ParityRecord, measure_parity
from atril_training.publication import Publication, check_fits, publish
from atril_training.recipes import Recipe
from atril_training.trainer import Reporter, TrainingRun, train

PARITY_PICTURES = 1000
"""Parity is measured on the first so many pictures of the test split."""


@dataclass(frozen=True, slots=True, eq=False)
class PublishedModel:
    """What came of a recipe; `path` is the folder of the version."""

    path: Path
    recipe: Recipe
    run: TrainingRun
    parity: ParityRecord


def train_and_publish(
    recipe: Recipe,
    *,
    repository: Path,
    model_name: str,
    source: FileSource,
    reporter: Reporter,
) -> PublishedModel:
    """Train by a recipe and publish the result, if it meets its bars.

    Args:
        recipe: what to learn.
        repository: root of the model repository; made if it does not exist.
        model_name: under which name to publish.
        source: where the files of the data set come from.
        reporter: told how training goes on.

    Raises:
        RefusedError: the model misses its bar or its parity, or does not fit the one that is
            published under this name; nothing was published.
        AtrilError: the data, the name or the training itself is at fault.
    """
    architecture = CATALOGUE[recipe.architecture]
    image = recipe.image_input(architecture.image)
    dataset = DATASETS[recipe.dataset](image, source)
    task = ClassificationTask(image=image, output=PROBABILITIES_NAME, labels=dataset.labels)
    config = classifier_config(model_name, task)
    check_fits(config, dataset.labels, repository)

    run = train(recipe, dataset, image, reporter)
    require_accuracy(recipe, run)
    module = ClassifierWithProbabilities(run.network).eval()
    onnx_model = export_classifier(module, architecture.image.shape)
    pictures = normalise(dataset.test.pixels[:PARITY_PICTURES], image)
    parity = measure_parity(module, onnx_model, pictures)
    require_parity(model_name, parity)
    card = build_card(recipe, dataset, run, parity)
    path = publish(Publication(config, dataset.labels, onnx_model, card), repository)
    return PublishedModel(path=path, recipe=recipe, run=run, parity=parity)


def require_accuracy(recipe: Recipe, run: TrainingRun) -> None:
    """Hold a trained network to the bar of its recipe.

    Raises:
        RefusedError: it misses the bar; the text says by how much.
    """
    got, least = run.test.accuracy, recipe.bar.minimum
    if got < least:
        raise RefusedError(
            f"{recipe.architecture} on {recipe.dataset}: {recipe.bar.metric} is {got:.4f}, the bar "
            f"is {least:.4f}, short by {least - got:.4f}; nothing was published"
        )


def require_parity(model_name: str, parity: ParityRecord) -> None:
    """Hold an export to the parity bar.

    Raises:
        RefusedError: ONNX Runtime and PyTorch differ by more; the text has every figure that does.
    """
    if failures := parity.failures():
        raise RefusedError(
            f"{model_name}: ONNX Runtime does not answer as PyTorch does: {'; '.join(failures)}; "
            f"nothing was published"
        )
