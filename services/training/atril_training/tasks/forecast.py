"""Forecasts of series.

Dimensions: N observations, B batch, T observations of a window, Q steps ahead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atril_common.tasks import ForecastTask, SequenceInput
from atril_models import Network
from atril_models.recurrent.forecasting import (
    ForecasterInOwnUnits,
    ForecastStep,
    SequenceForecaster,
)
from atril_training.baselines.autoregression import (
    Autoregression,
    choose_lags,
    fit_autoregression,
    fit_to_windows,
    persistence,
    root_mean_square,
)
from atril_training.datasets import SERIES_DATASETS, FileSource, SeriesDataset
from atril_training.export import (
    BATCH_DIMENSION,
    Export,
    OutputSpec,
    ParityCase,
    TensorSpec,
    batch_cases,
)
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.recipes.sequential import ForecastRecipe
from atril_training.tasks.course import Course, DataFacts

WINDOW, FORECAST, DEVIATION = "window", "forecast", "deviation"
LENGTH_DIMENSION = "length"
STEP = "-step"
"""Suffix of the graph that takes one observation at a time."""
SEQUENCE = "-sequence"
"""Suffix of the same graph with its states kept by the server."""

MOST_LAGS = 27
"""The autoregression of the baseline is chosen among those of up to so many lags by AIC."""
FIXED_LAGS = (12, 27)

_TOLERANCE = 1e-4
"""Largest difference in parity, of the series' standard deviation where that is above 1."""
_TRACED_LENGTH = 5
_BATCH_SIZES = (1, 7, 32)
_SHARE_95 = 1.959963984540054  # of a normal distribution, within so many deviations


class ForecastCourse(Course):
    """Teaches a network to forecast the next observations of a series."""

    def __init__(
        self, recipe: ForecastRecipe, dataset: SeriesDataset, shuffle_seed: int | None = None
    ) -> None:
        super().__init__(recipe)
        self.recipe: ForecastRecipe = recipe
        self.dataset = dataset
        self.shuffle_seed = shuffle_seed

    @classmethod
    def prepare(cls, recipe: ForecastRecipe, source: FileSource) -> "ForecastCourse":
        """Load the recipe's series."""
        return cls(recipe, SERIES_DATASETS[recipe.dataset](source))

    @property
    def data(self) -> DataFacts:
        """The parts of the series."""
        sets = self.dataset
        return DataFacts(
            name=sets.name,
            checksums_sha256=sets.checksums,
            examples={
                "train": sets.train_end,
                "validation": sets.validation_end - sets.train_end,
                "test": len(sets.values) - sets.validation_end,
            },
            held_out=sets.held_out,
            notes={"quantity": sets.quantity},
        )

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Squared errors on the recipe's scale; where it says so, twice, see `ForecastRecipe`."""
        assert isinstance(network, SequenceForecaster)
        recipe, sets = self.recipe, self.dataset
        chosen = _Forecasting(network, self, sets.train_end)
        fits = [fit(network, chosen, recipe.optimization, reporter, seed=recipe.seed)]
        deviation = chosen.deviation()
        if recipe.refit:
            network.load_state_dict(self.build().state_dict())
            final = _Forecasting(network, self, sets.validation_end)
            seed, stage = recipe.seed + 1, "with the validation part"
            fits.append(fit(network, final, recipe.optimization, reporter, seed=seed, stage=stage))
        network.z_deviation.copy_(deviation)
        return tuple(fits)

    def judge(self, network: Network) -> Mapping[str, float]:
        """Errors one step ahead in the series' unit, and how often they are within 1.96 σ."""
        start = self.dataset.validation_end
        forecasts, deviations = self.forecasts(network, start)
        errors = forecasts - self.dataset.values[start:]
        return {
            "test_rmse": root_mean_square(errors),
            "test_mae": float(np.abs(errors).mean()),
            "test_within_95": float(np.mean(np.abs(errors) <= _SHARE_95 * deviations)),
        }

    def baselines(self) -> Mapping[str, float]:
        """RMSE of the last value again, and of autoregressions fitted to all before the test."""
        start = self.dataset.validation_end
        values, known = self.dataset.values, self.dataset.values[:start]

        def error(baseline: Autoregression) -> float:
            return root_mean_square(baseline.forecasts(values, start) - values[start:])

        by_aic = choose_lags(known, MOST_LAGS)
        return {
            "test: last value again": error(persistence()),
            "test: autoregression by AIC": error(fit_autoregression(known, by_aic)),
            **{
                f"test: autoregression, {lags} lags": error(fit_autoregression(known, lags))
                for lags in FIXED_LAGS
            },
        }

    def served(self, network: Network) -> ForecasterInOwnUnits:
        """The network for plain observations."""
        assert isinstance(network, SequenceForecaster)
        recipe = self.recipe
        unscaled = ForecasterInOwnUnits(network, recipe.scale, mean=0.0, std=1.0)
        z = unscaled.z(torch.from_numpy(self.dataset.values[: self.dataset.train_end]))
        served = ForecasterInOwnUnits(
            network, recipe.scale, mean=float(z.mean()), std=float(z.std(correction=0))
        )
        return served.train(network.training)

    def forecasts(
        self, network: Network, start: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One step ahead for each observation from `start` on, and the deviations."""
        values = self.dataset.values[start - self.recipe.window : -1]
        windows = np.lib.stride_tricks.sliding_window_view(values, self.recipe.window)
        with torch.no_grad():
            forecast, deviation = self.served(network)(_rows(windows).to(device_of(network)))
        return tuple(part[:, 0].double().cpu().numpy() for part in (forecast, deviation))

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One step at a time, the same with its states kept by the server, and whole windows."""
        assert isinstance(network, SequenceForecaster)
        served = self.served(network).eval()
        # In the series' own units: float32 has no 1e-4 left at the level of hundreds.
        tolerance = _TOLERANCE * max(1.0, float(self.dataset.values.std()))
        outputs = tuple(
            OutputSpec(name, (BATCH_DIMENSION, network.horizon), tolerance=tolerance)
            for name in (FORECAST, DEVIATION)
        )
        task = ForecastTask(
            input=SequenceInput(WINDOW, (self.dataset.quantity,)),
            output=FORECAST,
            deviation=DEVIATION,
            window=self.recipe.window,
            horizon=network.horizon,
            step_suffix=STEP,
        )
        whole = Export(
            module=served,
            inputs=(TensorSpec(WINDOW, (BATCH_DIMENSION, LENGTH_DIMENSION, 1)),),
            outputs=outputs,
            example=(self._windows(2, _TRACED_LENGTH)[0],),
            cases=tuple(
                ParityCase(
                    {BATCH_DIMENSION: batch, LENGTH_DIMENSION: length},
                    [(windows,) for windows in self._windows(batch, length)],
                )
                for length in (self.recipe.window, 1, 2 * self.recipe.window)
                for batch in _BATCH_SIZES
            ),
            task=task,
        )
        step = self._step(served, outputs)
        return (step, _kept_by_server(step), whole)

    def _step(self, served: ForecasterInOwnUnits, outputs: tuple[OutputSpec, ...]) -> Export:
        """Compared on the states that the last observations lead to."""
        step = ForecastStep(served).eval()
        windows = torch.cat(self._windows(_BATCH_SIZES[-1], self.recipe.window))
        inputs = step.example_inputs(len(windows))
        with torch.no_grad():
            for observation in windows.unbind(1):
                inputs = (observation, *step(observation, *inputs[1:])[len(outputs) :])
        return Export(
            module=step,
            inputs=tuple(
                TensorSpec(name, (BATCH_DIMENSION, *tensor.shape[1:]))
                for name, tensor in zip(step.input_names, inputs, strict=True)
            ),
            outputs=(
                *outputs,
                *(
                    OutputSpec(name, (BATCH_DIMENSION, *tensor.shape[1:]))
                    for name, tensor in zip(
                        step.output_names[len(outputs) :], inputs[1:], strict=True
                    )
                ),
            ),
            example=tuple(tensor[:2] for tensor in inputs),
            cases=batch_cases(inputs, _BATCH_SIZES),
            suffix=STEP,
        )

    def _windows(self, batch: int, length: int) -> list[Tensor]:
        """The newest so many windows of this length, [B, T, 1]."""
        newest = np.lib.stride_tricks.sliding_window_view(self.dataset.values, length)
        return [_rows(newest[-max(_BATCH_SIZES) :])[:batch]]

    def with_shuffled_targets(self, seed: int) -> "ForecastCourse":
        """What follows a window to learn from is what follows another one."""
        return ForecastCourse(self.recipe, self.dataset, shuffle_seed=seed)


def _kept_by_server(step: Export) -> Export:
    """The same graph for callers who send a series as a sequence of requests, without states."""
    names = [spec.name for spec in step.inputs[1:]]
    replaced = [spec.name for spec in step.outputs[-len(names) :]]
    return replace(step, suffix=SEQUENCE, states=tuple(zip(names, replaced, strict=True)))


class _Forecasting(Objective[tuple[Tensor, Tensor]]):
    """Squared errors of every member on z, from the windows before `end`."""

    def __init__(self, network: SequenceForecaster, course: ForecastCourse, end: int) -> None:
        self.network = network
        self.course = course
        recipe, sets = course.recipe, course.dataset
        z = course.served(network).z(torch.from_numpy(sets.values))
        device = device_of(network)
        known = z[:end].float()
        self.windows = known[: -network.horizon].unfold(0, recipe.window, 1)[..., None].to(device)
        self.targets = known[recipe.window :].unfold(0, network.horizon, 1).to(device)
        if course.shuffle_seed is not None:
            order = np.random.default_rng(course.shuffle_seed).permutation(len(self.targets))
            self.targets = self.targets[torch.from_numpy(order).to(device)]
        if recipe.fit_highway:
            self._fit_highway()
        self.z = z.float().to(device)
        self.learns_validation = end > sets.train_end
        self.batch_size = min(recipe.optimization.batch_size, len(self.targets))
        self.epochs_done = 0

    def _fit_highway(self) -> None:
        recent = self.windows[:, -self.network.lags :, 0].double().cpu().numpy()
        targets = self.targets.double().cpu().numpy()
        fitted = [fit_to_windows(recent, column) for column in targets.T]
        self.network.set_highway(
            torch.from_numpy(np.stack([one.weights for one in fitted])),
            torch.tensor([one.bias for one in fitted]),
        )

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return len(self.targets) // self.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows [B, T, 1] and what follows them, [B, Q]."""
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        for rows in torch.split(order, self.batch_size)[: self.steps]:
            yield self.windows[rows], self.targets[rows]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over members, examples and steps ahead."""
        windows, targets = batch
        return (self.network.member_forecasts(windows) - targets).square().mean()

    def validate(self) -> Validation:
        """The error on the validation part decides; where that is learnt from, the last epoch."""
        self.epochs_done += 1
        error = root_mean_square(self._validation_errors()[:, 0].double().cpu().numpy())
        score = self.epochs_done if self.learns_validation else -error
        return Validation((score,), {"z_rmse": error})

    def deviation(self) -> Tensor:
        """Of the errors on the validation part, for each step ahead, [Q]."""
        with torch.no_grad():
            return self._validation_errors().square().mean(dim=0).sqrt()

    def _validation_errors(self) -> Tensor:
        sets, window = self.course.dataset, self.course.recipe.window
        part = self.z[sets.train_end - window : sets.validation_end]
        windows = part[: -self.network.horizon].unfold(0, window, 1)[..., None]
        targets = part[window:].unfold(0, self.network.horizon, 1)
        errors: Tensor = self.network(windows) - targets
        return errors


def _rows(windows: NDArray[np.float64]) -> Tensor:
    """Windows [B, T] as the network takes them, [B, T, 1]."""
    return torch.from_numpy(windows.astype(np.float32))[..., None]
