"""The recipes of networks that take rows of named numbers."""

from dataclasses import dataclass

from atril_training.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureClassificationRecipe(Recipe):
    """How a classifier of rows is trained: on the cross-entropy, features standardised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRegressionRecipe(Recipe):
    """How a regression on rows is trained: on the squared error, features and target standardised.

    The cost is lecture 2.3.1, half the mean squared error.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastSquaresRecipe(FeatureRegressionRecipe):
    """How a linear regression is brought to its minimum.

    The cost is that of a regression, in float64, and the weights kept are those of the epoch with
    the lowest cost on the training split, not on the validation split: there is one minimum, and it
    is known.
    """
