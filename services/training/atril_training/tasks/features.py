"""Classification and regression of rows of named numbers.

Dimensions: N rows, B batch, P features, K classes.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from atril_common.tasks import ClassificationTask, FeaturesInput, RegressionTask
from atril_models import ClassifierWithProbabilities, Network
from atril_models.feedforward import FeedforwardNetwork
from atril_models.standardisation import InOwnUnits, Units
from atril_training.datasets import FEATURE_DATASETS, FeatureDataset, FeatureSplit, FileSource
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, TensorSpec, batch_cases
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.recipes.features import (
    FeatureClassificationRecipe,
    FeatureRegressionRecipe,
)
from atril_training.recipes.recipe import Recipe
from atril_training.tasks.course import Course, DataFacts

FEATURES = "features"
LOGITS = "logits"
PROBABILITIES = "probabilities"
PREDICTION = "prediction"


class FeatureCourse(Course):
    """Teaches a network that takes standardised features, and serves it in their own units."""

    def __init__(self, recipe: Recipe, dataset: FeatureDataset) -> None:
        super().__init__(recipe)
        self.dataset = dataset
        self.units = units_of(dataset.train.features)

    @classmethod
    def prepare(cls, recipe: Recipe, _source: FileSource) -> Self:
        """Load the recipe's data, which is installed with the packages."""
        return cls(recipe, FEATURE_DATASETS[recipe.dataset]())

    @property
    def data(self) -> DataFacts:
        """The splits of the data set."""
        sets = self.dataset
        return DataFacts(
            name=sets.name,
            checksums_sha256=sets.checksums,
            examples={
                "train": len(sets.train),
                "validation": len(sets.validation),
                **{name: len(split) for name, split in self.test_splits.items()},
            },
            held_out=sets.held_out,
            notes={"features": sets.features, "target": sets.target, "labels": sets.labels},
        )

    @property
    def test_splits(self) -> Mapping[str, FeatureSplit]:
        """What the network is judged on, by name."""
        return {"test": self.dataset.test, "tail": self.dataset.tail}

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """One stage; the best epoch is that which does best on the validation split."""
        recipe = self.recipe
        objective = self.objective(network)
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    def judge(self, network: Network) -> Mapping[str, float]:
        """Figures on each test split, of the module that is served."""
        served = self.served(network).eval()
        return {
            f"{name}_{figure}": value
            for name, split in self.test_splits.items()
            for figure, value in self.figures(served, split).items()
        }

    def with_shuffled_targets(self, seed: int) -> Self:
        """Every row to learn from, and to choose the epoch on, gets the target of another."""
        generator = np.random.default_rng(seed)
        train, validation = (
            FeatureSplit(split.features, generator.permutation(split.targets))
            for split in (self.dataset.train, self.dataset.validation)
        )
        return type(self)(self.recipe, replace(self.dataset, train=train, validation=validation))

    @abstractmethod
    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """What the network learns."""

    @abstractmethod
    def served(self, network: Network) -> nn.Module:
        """The network in the features' own units, on the network's device."""

    @abstractmethod
    def figures(self, served: nn.Module, split: FeatureSplit) -> dict[str, float]:
        """How well it does on a split."""

    def rows(self) -> Tensor:
        """All features, the test splits first, to compare ONNX Runtime with PyTorch on."""
        sets = self.dataset
        splits = (sets.test, sets.tail, sets.validation, sets.train)
        return _float32(np.concatenate([split.features for split in splits]))

    def _export(
        self,
        module: nn.Module,
        outputs: tuple[OutputSpec, ...],
        task: ClassificationTask | RegressionTask,
    ) -> Export:
        rows = self.rows()
        return Export(
            module=module.eval(),
            inputs=(TensorSpec(FEATURES, (BATCH_DIMENSION, rows.shape[1])),),
            outputs=outputs,
            example=(rows[:2],),
            cases=batch_cases((rows,)),
            task=task,
            labels=self.dataset.labels,
        )


class FeatureClassificationCourse(FeatureCourse):
    """Teaches a network of logits to tell classes from features."""

    def __init__(self, recipe: FeatureClassificationRecipe, dataset: FeatureDataset) -> None:
        super().__init__(recipe, dataset)

    def options(self) -> Mapping[str, object]:
        """The recipe's, and as many features and classes as the data have."""
        sets = self.dataset
        return {
            **self.recipe.options,
            "inputs": (len(sets.features),),
            "classes": len(sets.labels),
        }

    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """Cross-entropy."""
        return _Classification(network, self)

    def served(self, network: Network) -> nn.Module:
        """Logits from features in their own units."""
        return InOwnUnits(network, self.units).to(device_of(network))

    def figures(self, served: nn.Module, split: FeatureSplit) -> dict[str, float]:
        """Mean cross-entropy in nats, number of errors and accuracy."""
        with torch.no_grad():
            logits = served(_float32(split.features).to(_device(served))).cpu()
        return _classification_figures(logits, torch.from_numpy(split.targets))

    def baselines(self) -> Mapping[str, float]:
        """Accuracy of three ways to answer without learning weights."""
        train = self.dataset.train
        plain = Units((0.0,) * train.features.shape[1], (1.0,) * train.features.shape[1])
        figures: dict[str, float] = {}
        for name, split in self.test_splits.items():
            figures |= {
                f"{name}: most frequent class": _most_frequent_class(train, split),
                f"{name}: nearest class mean": _nearest_class_mean(train, split, plain),
                f"{name}: nearest class mean, standardised": _nearest_class_mean(
                    train, split, self.units
                ),
            }
        return figures

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One graph, which answers with logits and probabilities."""
        labels = self.dataset.labels
        dims = (BATCH_DIMENSION, len(labels))
        outputs = (
            OutputSpec(LOGITS, dims, same_argmax=True),
            OutputSpec(PROBABILITIES, dims, tolerance=1e-5, labelled=True),
        )
        given = FeaturesInput(FEATURES, self.dataset.features)
        task = ClassificationTask(given, PROBABILITIES, labels)
        module = ClassifierWithProbabilities(self.served(network))
        return (self._export(module, outputs, task),)


class FeatureRegressionCourse(FeatureCourse):
    """Teaches a network with one output to tell a number from features."""

    def __init__(self, recipe: FeatureRegressionRecipe, dataset: FeatureDataset) -> None:
        super().__init__(recipe, dataset)
        self.target_units = units_of(dataset.train.targets[:, None])

    def options(self) -> Mapping[str, object]:
        """The recipe's, and as many features as the data have."""
        return {**self.recipe.options, "inputs": (len(self.dataset.features),), "targets": 1}

    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """Half the mean squared error."""
        return _Regression(network, self)

    def served(self, network: Network) -> nn.Module:
        """The estimate in the target's unit, from features in theirs."""
        return InOwnUnits(network, self.units, self.target_units).to(device_of(network))

    def figures(self, served: nn.Module, split: FeatureSplit) -> dict[str, float]:
        """Root of the mean squared and mean absolute error in the target's unit, and R²."""
        with torch.no_grad():
            predictions = served(_float32(split.features).to(_device(served)))
        return _regression_figures(predictions.double().cpu().numpy()[:, 0], split.targets)

    def baselines(self) -> Mapping[str, float]:
        """Root of the mean squared error of the mean, and of linear least squares."""
        train = self.dataset.train
        mean, weights = train.targets.mean(), least_squares(_with_ones(train.features), train)
        figures: dict[str, float] = {}
        for name, split in self.test_splits.items():
            constant, linear = np.full(len(split), mean), _with_ones(split.features) @ weights
            figures |= {
                f"{name}: mean of the targets": _rmse(constant, split.targets),
                f"{name}: least squares": _rmse(linear, split.targets),
            }
        return figures

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One graph, which answers with the estimate."""
        given = FeaturesInput(FEATURES, self.dataset.features)
        task = RegressionTask(given, PREDICTION, self.dataset.target)
        outputs = (OutputSpec(PREDICTION, (BATCH_DIMENSION, 1)),)
        return (self._export(self.served(network), outputs, task),)


class LeastSquaresCourse(FeatureRegressionCourse):
    """Brings a linear regression to the least squares solution by descending its gradient."""

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """In float64: in float32 the gradient near the minimum is mostly rounding."""
        fits = super().train(network.double(), reporter)
        network.float()
        return fits

    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """Half the mean squared error, whose minimum on the training split is looked for."""
        return _LeastSquares(network, self)

    def judge(self, network: Network) -> Mapping[str, float]:
        """The figures of a regression, and how far the weights are from the solution.

        ‖(w, b) - (w*, b*)‖ / ‖(w*, b*)‖ of weights and bias for standardised features and target,
        (w*, b*) from an orthogonal decomposition of the training split in float64.
        """
        assert isinstance(network, FeedforwardNetwork)
        output = network.output
        found = torch.cat([output.weight[0], output.bias]).detach().double().cpu().numpy()
        train = FeatureSplit(
            standardised(self.dataset.train.features, self.units),
            standardised(self.dataset.train.targets[:, None], self.target_units)[:, 0],
        )
        solution = least_squares(_with_ones(train.features), train)
        distance = np.linalg.norm(found - solution) / np.linalg.norm(solution)
        return {**super().judge(network), "distance_from_least_squares": float(distance)}

    def baselines(self) -> Mapping[str, float]:
        """Those of a regression, and the distance of weights that are all zero."""
        return {**super().baselines(), "weights of zero": 1.0}


class _Rows(Objective[tuple[Tensor, Tensor]]):
    """Standardised rows of the training split in batches of a random order."""

    def __init__(self, network: Network, course: FeatureCourse, targets: Tensor) -> None:
        self.network = network
        self.course = course
        dtype = next(network.parameters()).dtype
        self.features = self._standardised(course.dataset.train, dtype)
        self.targets = targets.to(device_of(network))
        self.batch_size = min(course.recipe.optimization.batch_size, len(targets))

    def _standardised(self, split: FeatureSplit, dtype: torch.dtype) -> Tensor:
        rows = torch.from_numpy(standardised(split.features, self.course.units))
        return rows.to(device_of(self.network), dtype)

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return len(self.targets) // self.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [B, P] and targets [B]."""
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        for rows in torch.split(order, self.batch_size)[: self.steps]:
            yield self.features[rows], self.targets[rows]


class _Classification(_Rows):
    def __init__(self, network: Network, course: FeatureClassificationCourse) -> None:
        super().__init__(network, course, torch.from_numpy(course.dataset.train.targets))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean cross-entropy in nats."""
        features, targets = batch
        return functional.cross_entropy(self.network(features), targets)

    def validate(self) -> Validation:
        """The accuracy decides, and among equals the loss."""
        split = self.course.dataset.validation
        logits = self.network(self._standardised(split, torch.float32)).cpu()
        figures = _classification_figures(logits, torch.from_numpy(split.targets))
        return Validation((figures["accuracy"], -figures["loss"]), figures)


class _Regression(_Rows):
    def __init__(self, network: Network, course: FeatureRegressionCourse) -> None:
        targets = standardised(course.dataset.train.targets[:, None], course.target_units)[:, 0]
        dtype = next(network.parameters()).dtype
        super().__init__(network, course, torch.from_numpy(targets).to(dtype))
        self.regression = course

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Lecture 2.3.1: half the mean squared error, of the standardised target."""
        features, targets = batch
        return functional.mse_loss(self.network(features)[:, 0], targets) / 2

    def validate(self) -> Validation:
        """The error in the target's unit decides."""
        split = self.course.dataset.validation
        dtype = next(self.network.parameters()).dtype
        outputs = self.network(self._standardised(split, dtype)).double().cpu().numpy()[:, 0]
        units = self.regression.target_units
        figures = _regression_figures(units.mean[0] + units.std[0] * outputs, split.targets)
        return Validation((-figures["rmse"],), figures)


class _LeastSquares(_Regression):
    def validate(self) -> Validation:
        """The cost on the training split decides."""
        cost = self.loss((self.features, self.targets)).item()
        return Validation((-cost,), {**super().validate().figures, "train_cost": cost})


def units_of(values: NDArray[np.float64]) -> Units:
    """Mean and standard deviation of each column.

    Raises:
        ValueError: a column is constant.
    """
    return Units(tuple(values.mean(axis=0).tolist()), tuple(values.std(axis=0).tolist()))


def standardised(values: NDArray[np.float64], units: Units) -> NDArray[np.float64]:
    """Each column less its mean, over its deviation."""
    scaled: NDArray[np.float64] = (values - np.array(units.mean)) / np.array(units.std)
    return scaled


def least_squares(design: NDArray[np.float64], split: FeatureSplit) -> NDArray[np.float64]:
    """The weights that minimise ‖design · weights - targets‖², in float64."""
    solution: NDArray[np.float64] = np.linalg.lstsq(design, split.targets, rcond=None)[0]
    return solution


def _with_ones(features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _float32(features: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(features.astype(np.float32))


def _device(served: nn.Module) -> torch.device:
    return next(served.parameters()).device


def _classification_figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    errors = int((logits.argmax(dim=1) != targets).sum())
    return {
        "loss": functional.cross_entropy(logits, targets).item(),
        "errors": errors,
        "accuracy": 1 - errors / len(targets),
    }


def _regression_figures(
    predictions: NDArray[np.float64], targets: NDArray[np.float64]
) -> dict[str, float]:
    residuals = predictions - targets
    return {
        "rmse": _rmse(predictions, targets),
        "mae": float(np.abs(residuals).mean()),
        "r2": float(1 - (residuals**2).sum() / ((targets - targets.mean()) ** 2).sum()),
    }


def _rmse(predictions: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((predictions - targets) ** 2)))


def _most_frequent_class(train: FeatureSplit, test: FeatureSplit) -> float:
    return float(np.mean(test.targets == np.bincount(train.targets).argmax()))


def _nearest_class_mean(train: FeatureSplit, test: FeatureSplit, units: Units) -> float:
    """Accuracy of answering with the class whose mean is the nearest in these units."""
    known, asked = standardised(train.features, units), standardised(test.features, units)
    means = np.stack(
        [known[train.targets == label].mean(axis=0) for label in np.unique(train.targets)]
    )
    distances = np.linalg.norm(asked[:, None] - means, axis=2)  # [N, K]
    return float(np.mean(distances.argmin(axis=1) == test.targets))
