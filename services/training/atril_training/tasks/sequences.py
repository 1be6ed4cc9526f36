"""Classification of sequences: pictures that are read row by row.

Dimensions: N pictures, B batch, T time steps (rows), P features (pixels of a row), K classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_common.tasks import ClassificationTask, ImageInput, SequenceInput
from atril_models import ClassifierWithProbabilities, Network
from atril_models.standardisation import InOwnUnits, Units
from atril_training.datasets import PICTURE_DATASETS, FileSource, ImageDataset, Split
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, ParityCase, TensorSpec
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.recipes.sequential import SequenceClassificationRecipe
from atril_training.tasks.course import Course, DataFacts
from atril_training.tasks.pictures import (
    LOGITS,
    PROBABILITIES,
    nearest_class_mean,
    shift_pictures,
)

SEQUENCE = "sequence"
LENGTH_DIMENSION = "length"

_TRACED_LENGTH = 4
_BATCH_SIZES = (1, 7, 64)
_PARITY_SEQUENCES = 192
_EVALUATION_BATCH_SIZE = 500


class SequenceClassificationCourse(Course):
    """Teaches a network of logits to tell what a picture shows whose rows come one by one."""

    def __init__(self, recipe: SequenceClassificationRecipe, dataset: ImageDataset) -> None:
        super().__init__(recipe)
        self.recipe: SequenceClassificationRecipe = recipe
        self.dataset = dataset
        grey = dataset.train.pixels.astype(np.float64)
        self.units = Units((float(grey.mean()),) * recipe.side, (float(grey.std()),) * recipe.side)

    @classmethod
    def prepare(
        cls, recipe: SequenceClassificationRecipe, source: FileSource
    ) -> "SequenceClassificationCourse":
        """Load the recipe's pictures."""
        image = ImageInput("image", recipe.side, recipe.side, mean=(0.0,), std=(1.0,))
        return cls(recipe, PICTURE_DATASETS[recipe.dataset](image, source))

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
            notes={"labels": sets.labels, "sequence": "the rows of a picture from top to bottom"},
        )

    @property
    def test_splits(self) -> Mapping[str, Split]:
        """What the network is judged on, by name."""
        tail = self.dataset.tail
        return {"test": self.dataset.test} | ({} if tail is None else {"tail": tail})

    def options(self) -> Mapping[str, object]:
        """The recipe's, and as many features and classes as the data have."""
        return {
            **self.recipe.options,
            "features": self.recipe.side,
            "classes": len(self.dataset.labels),
        }

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Cross-entropy; the best epoch is that with the fewest errors, then the lowest loss."""
        objective = _Classification(network, self)
        recipe = self.recipe
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    def judge(self, network: Network) -> Mapping[str, float]:
        """Loss, errors and accuracy on each test split."""
        served = self.served(network)
        return {
            f"{name}_{figure}": value
            for name, split in self.test_splits.items()
            for figure, value in evaluate(served, split).items()
        }

    def baselines(self) -> Mapping[str, float]:
        """Accuracy of answering with the class whose mean picture is the nearest."""
        return {
            f"{name}: nearest class mean": nearest_class_mean(self.dataset.train, split)
            for name, split in self.test_splits.items()
        }

    def served(self, network: Network) -> nn.Module:
        """Logits from grey levels 0 … 255."""
        return InOwnUnits(network, self.units).to(device_of(network)).train(network.training)

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One graph, which answers with logits and probabilities for sequences of any length."""
        labels = self.dataset.labels
        features = tuple(f"column {column}" for column in range(self.recipe.side))
        dims = (BATCH_DIMENSION, len(labels))
        return (
            Export(
                module=ClassifierWithProbabilities(self.served(network)).eval(),
                inputs=(TensorSpec(SEQUENCE, (BATCH_DIMENSION, LENGTH_DIMENSION, len(features))),),
                outputs=(
                    OutputSpec(LOGITS, dims, same_argmax=True),
                    OutputSpec(PROBABILITIES, dims, tolerance=1e-5, labelled=True),
                ),
                example=(self._sequences(2, _TRACED_LENGTH)[0],),
                cases=self._cases(),
                task=ClassificationTask(SequenceInput(SEQUENCE, features), PROBABILITIES, labels),
                labels=labels,
            ),
        )

    def _cases(self) -> tuple[ParityCase, ...]:
        """Whole pictures, their first row, their first half, and two and a half after another."""
        side = self.recipe.side
        return tuple(
            ParityCase(
                {BATCH_DIMENSION: batch, LENGTH_DIMENSION: length},
                [(batch_of,) for batch_of in self._sequences(batch, length)],
            )
            for length in (side, 1, side // 2, side * 5 // 2)
            for batch in _BATCH_SIZES
        )

    def _sequences(self, batch: int, length: int) -> list[Tensor]:
        """Rows of test pictures in batches [B, T, P], three after another where T needs them."""
        pixels = self.dataset.test.pixels[:_PARITY_SEQUENCES, 0]
        rows = np.concatenate([pixels, np.roll(pixels, 1, axis=0), np.roll(pixels, 2, axis=0)], 1)
        sequences = torch.from_numpy(rows[:, :length].astype(np.float32))
        starts = range(0, len(sequences) - batch + 1, batch)
        return [sequences[start : start + batch] for start in starts]

    def with_shuffled_targets(self, seed: int) -> "SequenceClassificationCourse":
        """Every picture to learn from gets the label of another."""
        split = self.dataset.train
        targets = np.random.default_rng(seed).permutation(split.targets)
        dataset = replace(self.dataset, train=Split(split.pixels, targets))
        return SequenceClassificationCourse(self.recipe, dataset)


class _Classification(Objective[tuple[Tensor, Tensor]]):
    """Cross-entropy on pictures that are moved a little, anew in each epoch."""

    def __init__(self, network: Network, course: SequenceClassificationCourse) -> None:
        self.served = course.served(network)
        self.recipe = course.recipe
        self.validation = course.dataset.validation
        device = device_of(network)
        self.pixels = torch.from_numpy(course.dataset.train.pixels).to(device)
        self.targets = torch.from_numpy(course.dataset.train.targets).to(device)
        self.batch_size = min(course.recipe.optimization.batch_size, len(self.targets))

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return len(self.targets) // self.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Sequences [B, T, P] float32 and targets [B]."""
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        for rows in torch.split(order, self.batch_size)[: self.steps]:
            pixels = self.pixels[rows]
            if self.recipe.max_shift:
                pixels = shift_pictures(pixels, self.recipe.max_shift, generator)
            yield pixels[:, 0].float(), self.targets[rows]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean cross-entropy in nats."""
        sequences, targets = batch
        return functional.cross_entropy(self.served(sequences), targets)

    def validate(self) -> Validation:
        """The accuracy decides, and among equals the loss."""
        figures = evaluate(self.served, self.validation)
        return Validation((figures["accuracy"], -figures["loss"]), figures)


def evaluate(served: nn.Module, split: Split) -> dict[str, float]:
    """Mean cross-entropy in nats, number of errors and accuracy on a whole split of pictures."""
    device = next(served.parameters()).device
    loss, errors = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(split), _EVALUATION_BATCH_SIZE):
            rows = slice(start, start + _EVALUATION_BATCH_SIZE)
            targets = torch.from_numpy(split.targets[rows]).to(device)
            logits = served(torch.from_numpy(split.pixels[rows, 0]).to(device).float())
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
            errors += int((logits.argmax(dim=1) != targets).sum())
    return {"loss": loss / len(split), "errors": errors, "accuracy": 1 - errors / len(split)}
