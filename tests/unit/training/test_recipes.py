"""The table of recipes, and what a bar refuses."""

import pytest

from atril_common.errors import NotFoundError
from atril_models import CATALOGUE
from atril_training.datasets import DATASETS
from atril_training.recipes import DEFAULT_RECIPE, RECIPES, at_least, at_most, find_recipe

every_recipe = pytest.mark.parametrize("key", list(RECIPES), ids="-".join)


@every_recipe
def test_recipe_names_what_exists(key: tuple[str, str]) -> None:
    """Architecture and data set are known, and there is a bar with a baseline."""
    recipe = RECIPES[key]
    assert key == (recipe.architecture, recipe.dataset)
    assert recipe.architecture in CATALOGUE
    assert recipe.dataset in DATASETS
    assert recipe.bars
    assert all(bar.baseline for bar in recipe.bars)


@pytest.mark.parametrize("architecture", list(CATALOGUE))
def test_default_of_every_architecture_needs_no_download(architecture: str) -> None:
    """Every architecture can be trained on a machine without a network."""
    assert DATASETS[find_recipe(architecture).dataset].embedded


def test_first_run_trains_lenet5_on_digits() -> None:
    """The recipe of `atril run`, with the bar that it was promised with."""
    assert (DEFAULT_RECIPE.architecture, DEFAULT_RECIPE.dataset) == ("lenet5", "digits")
    assert {bar.metric: bar.bound for bar in DEFAULT_RECIPE.bars}["test_accuracy"] == 0.97


def test_unknown_data_set_lists_the_known_ones() -> None:
    """The error names the pair that was asked for and what exists."""
    with pytest.raises(NotFoundError, match=r"trains lenet5 on 'cifar': .* digits, mnist"):
        find_recipe("lenet5", "cifar")


def test_unknown_architecture_lists_the_known_ones() -> None:
    """The error names the architecture that was asked for and what exists."""
    with pytest.raises(NotFoundError, match=r"no recipe trains 'lenet6': .*lenet5"):
        find_recipe("lenet6")


@pytest.mark.parametrize(
    ("value", "passes"), [(0.9, True), (0.91, True), (0.89, False), (float("nan"), False)]
)
def test_bar_is_the_worst_value_that_passes(value: float, passes: bool) -> None:
    """In both directions, and NaN never passes."""
    high = at_least("score", 0.9, baseline="simple")
    low = at_most("score", -0.9, baseline="simple")
    assert (high.failures({"score": value}, {"simple": 0.1}) == ()) is passes
    assert (low.failures({"score": -value}, {"simple": 0.1}) == ()) is passes


def test_missed_bar_says_by_how_much() -> None:
    """Figure, bar and distance."""
    bar = at_most("error", 0.02, baseline="simple")
    assert bar.failures({"error": 0.05}, {"simple": 0.1}) == (
        "error is 0.0500, the bar is at most 0.0200, missed by 0.0300",
    )


def test_bar_that_its_baseline_reaches_proves_nothing() -> None:
    """A model that passes such a bar is refused all the same."""
    bar = at_least("accuracy", 0.8, baseline="guessing")
    (text,) = bar.failures({"accuracy": 0.9}, {"guessing": 0.85})
    assert text == (
        "the bar of accuracy is at least 0.8000, which guessing reaches with 0.8500: "
        "it proves nothing"
    )
