"""The recipes of what is learnt from sequences: rows of pictures, series and text."""

from dataclasses import dataclass

from atril_models.recurrent.forecasting import Scale
from atril_training.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceClassificationRecipe(Recipe):
    """How a classifier of sequences is trained on pictures that are read row by row.

    Args:
        side: height and width that every picture is brought to; its rows are the time steps.
        max_shift: each picture is moved by up to so many pixels each way, anew in each epoch.
    """

    side: int
    max_shift: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRecipe(Recipe):
    """How a forecaster of a series is trained.

    Args:
        window: how many observations a forecast is made from.
        scale: on which the network works.
        fit_highway: whether the linear part on the last values, which the network's option `lags`
            gives it, is an autoregression fitted by least squares; else it is the last value again.
        refit: whether, after the network has been judged on the validation part, a new one learns
            from that part too, the nearest before what is to be forecast, for as many epochs.
    """

    window: int
    scale: Scale = "identity"
    fit_highway: bool = False
    refit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecipe(Recipe):
    """How a model of running text is trained.

    An epoch is as many windows, drawn anywhere in the text, as would cover it once.

    Args:
        window: characters of each example.
        most_grams: the largest order among which the best n-grams are looked for as a baseline.
    """

    window: int
    most_grams: int = 10
