"""The model card: everything that is needed to judge a model, and to make it again."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from atril_models import CATALOGUE, Network, count_layers
from atril_training.fitting import Fit
from atril_training.latency import Latency
from atril_training.parity import ParityRecord
from atril_training.provenance import code_version, package_versions
from atril_training.recipes.recipe import QualityBar, Recipe
from atril_training.tasks.course import Course


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure on the test split, the bar it had to meet, and what the bar's baseline reaches."""

    name: str
    value: float
    bar: QualityBar
    baseline_value: float


@dataclass(frozen=True, slots=True)
class Training:
    """How the weights came about."""

    device: str
    duration_s: float
    fits: tuple[Fit, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Figures of the model and of simple methods on the test split, by name."""

    figures: Mapping[str, float]
    baselines: Mapping[str, float]

    def metrics(self, recipe: Recipe) -> tuple[Metric, ...]:
        """The figures that the recipe has a bar for."""
        return tuple(
            Metric(bar.metric, self.figures[bar.metric], bar, self.baselines[bar.baseline])
            for bar in recipe.bars
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured on one exported graph."""

    parity: ParityRecord
    latency: Latency
    size_bytes: int


def build_card(
    course: Course, network: Network, training: Training, judgement: Judgement
) -> dict[str, object]:
    """The part of the card that all graphs of one training share."""
    recipe = course.recipe
    entry = CATALOGUE[recipe.architecture]
    layers = count_layers(network, *network.example_inputs())
    return {
        "architecture": entry.name,
        "title": entry.title,
        "lecture_section": entry.lecture_section,
        "source": entry.source,
        "parameters": sum(layer.parameters for layer in layers),
        "recipe": asdict(recipe),
        "options": dict(course.options()),
        "seed": recipe.seed,
        "data": asdict(course.data),
        "code_version": code_version(),
        "packages": package_versions(),
        "device": {
            "type": training.device,
            "name": _device_name(training.device),
            "threads": recipe.threads,
        },
        "metrics": [asdict(metric) for metric in judgement.metrics(recipe)],
        "figures": dict(judgement.figures),
        "baselines": dict(judgement.baselines),
        "training": {
            "duration_s": training.duration_s,
            "stages": [asdict(one) for one in training.fits],
        },
        "layers": [asdict(layer) for layer in layers],
    }


def card_of_graph(
    card: Mapping[str, object], proof: Proof, model: str, published_with: Sequence[str]
) -> dict[str, object]:
    """The card of one graph, without the checksums of its files, which publication adds.

    `model` is the name that was published under, without a suffix; `published_with` names all
    models of the same training, the one itself among them.
    """
    return {
        **card,
        "model": model,
        "published_with": list(published_with),
        "size_bytes": proof.size_bytes,
        "latency": asdict(proof.latency),
        "parity": asdict(proof.parity),
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
