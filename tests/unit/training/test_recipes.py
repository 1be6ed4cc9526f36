"""The table of recipes."""

import pytest

from atril_common.errors import NotFoundError
from atril_models import CATALOGUE
from atril_training.datasets import DATASETS
from atril_training.recipes import DEFAULT_RECIPE, RECIPES, find_recipe


@pytest.mark.parametrize("key", list(RECIPES), ids="-".join)
def test_recipe_names_what_exists(key: tuple[str, str]) -> None:
    """Architecture and data set are known, and the normalisation fits the picture's channels."""
    recipe = RECIPES[key]
    assert key == (recipe.architecture, recipe.dataset)
    assert recipe.architecture in CATALOGUE
    assert recipe.dataset in DATASETS
    image = CATALOGUE[recipe.architecture].image
    assert recipe.image_input(image).channels == image.channels


def test_bars_are_those_promised() -> None:
    """0.97 on the bundled digits, 0.99 on MNIST, for both variants."""
    assert {key: recipe.bar.minimum for key, recipe in RECIPES.items()} == {
        ("lenet5", "digits"): 0.97,
        ("lenet5-modern", "digits"): 0.97,
        ("lenet5", "mnist"): 0.99,
        ("lenet5-modern", "mnist"): 0.99,
    }


def test_default_needs_no_download() -> None:
    """The default recipe trains on data that is installed with scikit-learn."""
    assert (DEFAULT_RECIPE.architecture, DEFAULT_RECIPE.dataset) == ("lenet5", "digits")


def test_unknown_pair_lists_the_known_ones() -> None:
    """The error names the pair that was asked for and all that exist."""
    with pytest.raises(NotFoundError, match=r"trains lenet5 on cifar.*lenet5 on digits, lenet5-m"):
        find_recipe("lenet5", "cifar")
