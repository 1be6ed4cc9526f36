"""What to learn and how: one frozen recipe for each pair of architecture and data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from atril_common.errors import NotFoundError
from atril_common.model_config import ImageInput
from atril_models import ImageSpec


@dataclass(frozen=True, slots=True)
class QualityBar:
    """The least that a model must reach on the test split to be published."""

    metric: str
    minimum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one architecture is trained on one data set.

    Args:
        architecture: name in the catalogue.
        dataset: name in `DATASETS`.
        epochs: passes over the training split.
        batch_size: pictures a step; the rest of an epoch that fills no batch is left out of it.
        peak_learning_rate: AdamW's, reached after a warm-up and then lowered along a cosine.
        warm_up_fraction: part of all steps in which the rate rises.
        weight_decay: AdamW's, decoupled.
        max_shift: each picture is moved by up to so many pixels each way, anew in each epoch.
        seed: of the initial weights, the order of the pictures and their shifts.
        threads: how many the processor's work is divided among. It belongs to the recipe because
            sums added up in another order give other weights; networks this small gain little
            from a second one, and two crawl where other work has the cores.
        mean, std: normalisation of each channel, in units of the full range 0 … 1.
        bar: what must be reached on the test split.
    """

    architecture: str
    dataset: str
    epochs: int
    batch_size: int
    peak_learning_rate: float
    warm_up_fraction: float = 0.2
    weight_decay: float
    max_shift: int
    seed: int = 0
    threads: int = 1
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bar: QualityBar

    def image_input(self, image: ImageSpec) -> ImageInput:
        """How a picture becomes the network's input, in training as in serving."""
        return ImageInput(
            name="image", height=image.height, width=image.width, mean=self.mean, std=self.std
        )


# Background -0.1 and ink 1.175, so that the mean is about 0 and the variance about 1 (LeCun et
# al. 1998, §II-B): (0 - mean) / std and (1 - mean) / std.
_PAPER_STD = 1 / (1.175 + 0.1)
_PAPER_MEAN = 0.1 * _PAPER_STD


def _lenet_on_digits(architecture: str) -> Recipe:
    return Recipe(
        architecture=architecture,
        dataset="digits",
        epochs=30,
        batch_size=32,
        peak_learning_rate=0.004,
        weight_decay=0.01,
        max_shift=2,
        mean=(_PAPER_MEAN,),
        std=(_PAPER_STD,),
        bar=QualityBar("test_accuracy", 0.97),
    )


def _lenet_on_mnist(architecture: str) -> Recipe:
    return Recipe(
        architecture=architecture,
        dataset="mnist",
        epochs=20,
        batch_size=128,
        peak_learning_rate=0.004,
        weight_decay=0.01,
        max_shift=2,
        mean=(_PAPER_MEAN,),
        std=(_PAPER_STD,),
        bar=QualityBar("test_accuracy", 0.99),
    )


_LENETS = ("lenet5", "lenet5-modern")

RECIPES: Mapping[tuple[str, str], Recipe] = MappingProxyType(
    {
        (recipe.architecture, recipe.dataset): recipe
        for recipe in (
            *map(_lenet_on_digits, _LENETS),
            *map(_lenet_on_mnist, _LENETS),
        )
    }
)
"""The recipes by (architecture, data set)."""

DEFAULT_RECIPE = RECIPES["lenet5", "digits"]


def find_recipe(architecture: str, dataset: str) -> Recipe:
    """The recipe of this pair.

    Raises:
        NotFoundError: there is none; the text lists those that exist.
    """
    try:
        return RECIPES[architecture, dataset]
    except KeyError:
        known = ", ".join(f"{a} on {d}" for a, d in RECIPES)
        raise NotFoundError(
            f"no recipe trains {architecture} on {dataset}: expected one of {known}"
        ) from None
