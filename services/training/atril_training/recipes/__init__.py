"""What to learn and how: the frozen recipes of every architecture.

The first recipe of an architecture is its default: the small form, on data that is installed with
the packages. A family's module lists its own; this one puts the lists together.
"""

from collections.abc import Mapping
from types import MappingProxyType

from atril_common.errors import NotFoundError
from atril_training.recipes import (
    autoencoders,
    convolutional,
    feedforward,
    recurrent,
    translation,
)
from atril_training.recipes.recipe import Optimization, QualityBar, Recipe, at_least, at_most

RECIPES: Mapping[tuple[str, str], Recipe] = MappingProxyType(
    {
        (recipe.architecture, recipe.dataset): recipe
        for recipe in (
            *feedforward.RECIPES,
            *convolutional.RECIPES,
            *autoencoders.RECIPES,
            *recurrent.RECIPES,
            *translation.RECIPES,
        )
    }
)
"""The recipes by (architecture, data set), an architecture's default first."""

DEFAULT_RECIPE = RECIPES["lenet5", "digits"]


def find_recipe(architecture: str, dataset: str | None = None) -> Recipe:
    """The recipe of this pair, or the architecture's default.

    Raises:
        NotFoundError: there is none; the text lists those that exist.
    """
    datasets = [d for a, d in RECIPES if a == architecture]
    if not datasets:
        known = dict.fromkeys(a for a, _ in RECIPES)
        raise NotFoundError(
            f"no recipe trains '{architecture}': expected one of {', '.join(known)}"
        )
    chosen = datasets[0] if dataset is None else dataset
    if chosen not in datasets:
        raise NotFoundError(
            f"no recipe trains {architecture} on '{chosen}': expected one of {', '.join(datasets)}"
        )
    return RECIPES[architecture, chosen]


__all__ = [
    "DEFAULT_RECIPE",
    "RECIPES",
    "Optimization",
    "QualityBar",
    "Recipe",
    "at_least",
    "at_most",
    "find_recipe",
]
