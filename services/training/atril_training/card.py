"""The model card: everything that is needed to judge a model, and to make it again."""

import platform
from dataclasses import asdict, dataclass

from atril_models import CATALOGUE, count_layers
from atril_training.datasets import ImageDataset
from atril_training.parity import ParityRecord
from atril_training.provenance import code_version, package_versions
from atril_training.recipes import Recipe
from atril_training.trainer import TrainingRun


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure and the bar it had to meet."""

    name: str
    value: float
    minimum: float
    examples: int
    errors: int


def test_metric(recipe: Recipe, run: TrainingRun) -> Metric:
    """The figure that a recipe's bar is about."""
    return Metric(
        name=recipe.bar.metric,
        value=run.test.accuracy,
        minimum=recipe.bar.minimum,
        examples=run.test.examples,
        errors=run.test.errors,
    )


def build_card(
    recipe: Recipe, dataset: ImageDataset, run: TrainingRun, parity: ParityRecord
) -> dict[str, object]:
    """The card without the checksums of the files, which publication adds."""
    entry = CATALOGUE[recipe.architecture]
    layers = count_layers(run.network, entry.image.shape)
    return {
        "architecture": entry.name,
        "title": entry.title,
        "lecture_section": entry.lecture_section,
        "source": entry.source,
        "parameters": sum(layer.parameters for layer in layers),
        "recipe": asdict(recipe),
        "seed": recipe.seed,
        "data": {
            "name": dataset.name,
            "labels": dataset.labels,
            "checksums_sha256": dict(dataset.checksums),
            "examples": {
                "train": len(dataset.train),
                "validation": len(dataset.validation),
                "test": len(dataset.test),
            },
        },
        "code_version": code_version(),
        "packages": package_versions(),
        "device": {
            "type": "cpu",
            "machine": platform.machine(),
            "threads": recipe.threads,
        },
        "metrics": [asdict(test_metric(recipe, run))],
        "training": {
            "duration_s": run.duration_s,
            "best_epoch": run.best_epoch,
            "epochs": [asdict(record) for record in run.epochs],
        },
        "layers": [asdict(layer) for layer in layers],
        "parity": asdict(parity),
    }
