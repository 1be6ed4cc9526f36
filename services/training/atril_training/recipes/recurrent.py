"""Recipes of the recurrent networks (lecture 5), and of the character Transformer."""

from collections.abc import Mapping

from atril_training.recipes.recipe import Optimization, Recipe, at_least, at_most
from atril_training.recipes.sequential import (
    ForecastRecipe,
    SequenceClassificationRecipe,
    TextRecipe,
)


def _rows_of_digits(
    architecture: str,
    hidden: int,
    options: Mapping[str, object] | None = None,
    *,
    epochs: int = 30,
    weight_decay: float = 0.3,
) -> SequenceClassificationRecipe:
    return SequenceClassificationRecipe(
        architecture=architecture,
        dataset="digits",
        options={"hidden": hidden, **(options or {})},
        side=8,
        optimization=Optimization(
            epochs=epochs,
            batch_size=32,
            peak_learning_rate=0.005,
            weight_decay=weight_decay,
            clip_norm=1.0,
        ),
        bars=(
            at_least("test_accuracy", 0.95, baseline="test: nearest class mean"),
            at_least("tail_accuracy", 0.9, baseline="tail: nearest class mean"),
        ),
    )


def _rows_of_mnist(
    architecture: str, options: Mapping[str, object] | None = None
) -> SequenceClassificationRecipe:
    return SequenceClassificationRecipe(
        architecture=architecture,
        dataset="mnist",
        options=options or {},
        side=28,
        max_shift=2,
        optimization=Optimization(
            epochs=20, batch_size=128, peak_learning_rate=0.004, weight_decay=0.01, clip_norm=1.0
        ),
        bars=(at_least("test_accuracy", 0.98, baseline="test: nearest class mean"),),
    )


_MACKEY_GLASS = ForecastRecipe(
    architecture="lstm-forecaster",
    dataset="mackey_glass",
    options={"hidden": 32},
    window=24,
    optimization=Optimization(epochs=60, batch_size=32, peak_learning_rate=0.005, clip_norm=1.0),
    bars=(at_most("test_rmse", 0.045, baseline="test: autoregression by AIC"),),
)

_SUNSPOTS = ForecastRecipe(
    architecture="lstm-forecaster",
    dataset="sunspots",
    options={"hidden": 64, "lags": 1, "members": 5},
    window=36,
    scale="sqrt",
    refit=True,
    optimization=Optimization(
        epochs=15, batch_size=32, peak_learning_rate=0.002, weight_decay=0.01, clip_norm=1.0
    ),
    bars=(at_most("test_rmse", 16.7, baseline="test: autoregression by AIC"),),
)

_AIRLINE = ForecastRecipe(
    architecture="lstm-forecaster",
    dataset="airline",
    options={"hidden": 8, "lags": 14, "members": 3},
    window=14,
    scale="log",
    fit_highway=True,
    refit=True,
    optimization=Optimization(
        epochs=30, batch_size=32, peak_learning_rate=0.003, weight_decay=0.01, clip_norm=1.0
    ),
    bars=(at_most("test_rmse", 20.9, baseline="test: autoregression, 12 lags"),),
)

_TEMPERATURES = ForecastRecipe(
    architecture="lstm-forecaster",
    dataset="temperatures",
    options={"hidden": 32, "members": 2},
    window=30,
    refit=True,
    optimization=Optimization(
        epochs=12, batch_size=32, peak_learning_rate=0.003, weight_decay=0.01, clip_norm=1.0
    ),
    bars=(at_most("test_rmse", 2.33, baseline="test: autoregression by AIC"),),
)

_NUMBER_BARS = (
    at_most("test_nats", 0.36, baseline="test: best n-grams"),
    at_most("range_nats", 0.35, baseline="range: best n-grams"),
)
_SHAKESPEARE_GRAMS = 7

_CHAR_LSTM_ON_NUMBERS = TextRecipe(
    architecture="char-lstm",
    dataset="number_text",
    options={"hidden": 96, "layers": 1},
    window=64,
    optimization=Optimization(epochs=8, batch_size=16, peak_learning_rate=0.01, clip_norm=1.0),
    bars=_NUMBER_BARS,
)

_CHAR_TRANSFORMER_ON_NUMBERS = TextRecipe(
    architecture="char-transformer",
    dataset="number_text",
    options={"context": 64, "layers": 2, "heads": 4, "channels": 64, "dropout": 0.0},
    window=64,
    optimization=Optimization(
        epochs=6,
        batch_size=8,
        peak_learning_rate=0.004,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        clip_norm=1.0,
    ),
    bars=_NUMBER_BARS,
)

_CHAR_LSTM_ON_SHAKESPEARE = TextRecipe(
    architecture="char-lstm",
    dataset="tiny_shakespeare",
    options={"hidden": 512, "layers": 2, "dropout": 0.5},
    window=128,
    most_grams=_SHAKESPEARE_GRAMS,
    optimization=Optimization(
        epochs=50, batch_size=64, peak_learning_rate=0.002, warm_up_fraction=0.05, clip_norm=1.0
    ),
    bars=(at_most("test_nats", 1.50, baseline="test: best n-grams"),),
)

_CHAR_TRANSFORMER_ON_SHAKESPEARE = TextRecipe(
    architecture="char-transformer",
    dataset="tiny_shakespeare",
    window=256,
    most_grams=_SHAKESPEARE_GRAMS,
    # nanoGPT's 5,000 steps of 64 windows are 86 times the text that is learnt from here.
    optimization=Optimization(
        epochs=86,
        batch_size=64,
        peak_learning_rate=0.001,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        warm_up_fraction=0.02,
        clip_norm=1.0,
    ),
    bars=(at_most("test_window_nats", 1.47, baseline="test: best n-grams"),),
)

RECIPES: tuple[Recipe, ...] = (
    _rows_of_digits("rnn", 64),
    _rows_of_digits("rnn-skip", 64, {"delay": 4}),
    _rows_of_digits("rnn-leaky", 64, {"alpha": 0.3, "learn_alpha": True}),
    _rows_of_digits("rnn-delay", 64, {"delay": 2}, epochs=40, weight_decay=0.1),
    _rows_of_digits("lstm", 64),
    _rows_of_digits("bilstm", 48),
    _MACKEY_GLASS,
    _CHAR_LSTM_ON_NUMBERS,
    _CHAR_TRANSFORMER_ON_NUMBERS,
    *map(_rows_of_mnist, ("rnn", "rnn-skip", "rnn-leaky", "rnn-delay", "lstm", "bilstm")),
    _SUNSPOTS,
    _AIRLINE,
    _TEMPERATURES,
    _CHAR_LSTM_ON_SHAKESPEARE,
    _CHAR_TRANSFORMER_ON_SHAKESPEARE,
)
