"""Classification of pictures.

Dimensions: N pictures, B batch, C channels, H height, W width, K classes.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_common.imaging import normalise
from atril_common.tasks import ClassificationTask, ImageInput
from atril_models import CATALOGUE, ClassifierWithProbabilities, Network
from atril_models.image_classifier import HasAuxiliaryHeads
from atril_training.datasets import PICTURE_DATASETS, FileSource, ImageDataset, Split
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, TensorSpec, batch_cases
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.graphs import GraphCourse, GraphInputs, Graphs
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.tasks.course import DataFacts

PARITY_PICTURES = 1000
"""Parity is measured on the first so many pictures of the test split."""

LOGITS = "logits"
PROBABILITIES = "probabilities"

_EVALUATION_BATCH_SIZE = 500


class PictureClassificationCourse(GraphCourse):
    """Teaches a network of logits to classify the pictures of a data set."""

    def __init__(
        self, recipe: PictureClassificationRecipe, image: ImageInput, dataset: ImageDataset
    ) -> None:
        super().__init__(recipe)
        self.recipe: PictureClassificationRecipe = recipe
        self.image = image
        self.dataset = dataset

    @classmethod
    def prepare(
        cls, recipe: PictureClassificationRecipe, source: FileSource
    ) -> "PictureClassificationCourse":
        """Load the recipe's data at the size of its network."""
        image = recipe.image_input(recipe.picture)
        return cls(recipe, image, PICTURE_DATASETS[recipe.dataset](image, source))

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
            notes={"labels": sets.labels},
        )

    @property
    def test_splits(self) -> Mapping[str, Split]:
        """What the network is judged on, by name."""
        tail = self.dataset.tail
        return {"test": self.dataset.test} | ({} if tail is None else {"tail": tail})

    def options(self) -> Mapping[str, object]:
        """The recipe's, and as many classes and as large pictures as the network can be told of.

        A network that can be told the side of its pictures takes square ones.
        """
        known = inspect.signature(CATALOGUE[self.recipe.architecture].build).parameters
        from_data: dict[str, object] = {
            "classes": len(self.dataset.labels),
            "side": self.recipe.picture.height,
            "channels": self.recipe.picture.channels,
        }
        chosen = {name: value for name, value in from_data.items() if name in known}
        return chosen | dict(self.recipe.options)

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Cross-entropy; the best epoch is that with the fewest errors, then the lowest loss."""
        objective = PictureObjective(network, self.recipe, self.image, self.dataset)
        recipe = self.recipe
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    def judge(self, network: nn.Module) -> Mapping[str, float]:
        """Loss, errors and accuracy on each test split."""
        return {
            f"{name}_{figure}": value
            for name, split in self.test_splits.items()
            for figure, value in evaluate(network, split, self.image).items()
        }

    def baselines(self) -> Mapping[str, float]:
        """Accuracy of answering with the class whose mean picture is the nearest."""
        return {
            f"{name}: nearest class mean": nearest_class_mean(self.dataset.train, split)
            for name, split in self.test_splits.items()
        }

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One graph, which answers with logits and probabilities."""
        labels = self.dataset.labels
        pictures = normalise(self.dataset.test.pixels[:PARITY_PICTURES], self.image)
        tensor = torch.from_numpy(pictures)
        dims = (BATCH_DIMENSION, len(labels))
        return (
            Export(
                module=ClassifierWithProbabilities(network).eval(),
                inputs=(TensorSpec(self.image.name, (BATCH_DIMENSION, *pictures.shape[1:])),),
                outputs=(
                    OutputSpec(LOGITS, dims, same_argmax=True),
                    OutputSpec(PROBABILITIES, dims, tolerance=1e-5, labelled=True),
                ),
                example=(tensor[:2],),
                cases=batch_cases((tensor,)),
                task=ClassificationTask(self.image, PROBABILITIES, labels),
                labels=labels,
            ),
        )

    def graph_inputs(self, graphs: Graphs, split: GraphInputs, limit: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Pictures for the one graph."""
        pixels = (self.dataset.train if split == "train" else self.dataset.test).pixels
        return {"": torch.from_numpy(normalise(pixels[:limit], self.image))}

    def judge_graphs(self, graphs: Graphs) -> Mapping[str, float]:
        """As `judge`, of the logits that the graph answers."""
        return self.judge(graphs[""].only(LOGITS))

    def with_shuffled_targets(self, seed: int) -> "PictureClassificationCourse":
        """Every picture to learn from gets the label of another."""
        split = self.dataset.train
        targets = np.random.default_rng(seed).permutation(split.targets)
        dataset = replace(self.dataset, train=Split(split.pixels, targets))
        return PictureClassificationCourse(self.recipe, self.image, dataset)


class PictureObjective(Objective[tuple[Tensor, Tensor]]):
    """Cross-entropy on pictures that are moved a little, anew in each epoch."""

    def __init__(
        self,
        network: Network,
        recipe: PictureClassificationRecipe,
        image: ImageInput,
        dataset: ImageDataset,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.image = image
        self.dataset = dataset
        device = device_of(network)
        self.pixels = torch.from_numpy(dataset.train.pixels).to(device)
        self.targets = torch.from_numpy(dataset.train.targets).to(device)

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return max(1, len(self.targets) // self.recipe.optimization.batch_size)

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures [B, C, H, W] float32 and targets [B]."""
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        for rows in torch.split(order, self.recipe.optimization.batch_size)[: self.steps]:
            pixels = self.pixels[rows]
            if self.recipe.max_shift:
                pixels = shift_pictures(pixels, self.recipe.max_shift, generator)
            yield normalised(pixels, self.image), self.targets[rows]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean cross-entropy in nats, with that of auxiliary heads where there are any."""
        pictures, targets = batch
        if not isinstance(self.network, HasAuxiliaryHeads):
            return functional.cross_entropy(self.network(pictures), targets)
        logits, auxiliary = self.network.logits_and_auxiliary(pictures)
        loss = functional.cross_entropy(logits, targets)
        for others in auxiliary:
            loss = loss + self.network.auxiliary_weight * functional.cross_entropy(others, targets)
        return loss

    def validate(self) -> Validation:
        """The accuracy decides, and among equals the loss."""
        figures = evaluate(self.network, self.dataset.validation, self.image)
        return Validation((figures["accuracy"], -figures["loss"]), figures)


def evaluate(network: nn.Module, split: Split, image: ImageInput) -> dict[str, float]:
    """Mean cross-entropy in nats, number of errors and accuracy on a whole split."""
    device = device_of(network)
    loss, errors = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(split), _EVALUATION_BATCH_SIZE):
            rows = slice(start, start + _EVALUATION_BATCH_SIZE)
            targets = torch.from_numpy(split.targets[rows]).to(device)
            pixels = torch.from_numpy(split.pixels[rows]).to(device)
            logits = network(normalised(pixels, image))
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
            errors += int((logits.argmax(dim=1) != targets).sum())
    return {
        "loss": loss / len(split),
        "errors": errors,
        "accuracy": 1 - errors / len(split),
    }


def normalised(pixels: Tensor, image: ImageInput) -> Tensor:
    """What `atril_common.imaging.normalise` computes, where the tensor lies.

    Shape: uint8 [B, C, H, W] to float32 of the same shape.
    """
    mean = torch.tensor(image.mean, device=pixels.device)[:, None, None]
    std = torch.tensor(image.std, device=pixels.device)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def shift_pictures(pixels: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Move each picture by its own random number of pixels; what comes in is background, 0.

    Shape: uint8 [B, C, H, W]; returns the same. Both shifts are uniform in ±max_shift.
    """
    device = pixels.device
    batch, _channels, height, width = pixels.shape
    padded = functional.pad(pixels, (max_shift,) * 4)
    offsets = torch.randint(0, 2 * max_shift + 1, (2, batch, 1), generator=generator).to(device)
    rows = (offsets[0] + torch.arange(height, device=device))[:, None, :, None]  # [B, 1, H, 1]
    columns = (offsets[1] + torch.arange(width, device=device))[:, None, None, :]  # [B, 1, 1, W]
    pictures = torch.arange(batch, device=device)[:, None, None, None]
    channels = torch.arange(pixels.shape[1], device=device)[None, :, None, None]
    return padded[pictures, channels, rows, columns]


def nearest_class_mean(train: Split, test: Split) -> float:
    """Accuracy on `test` of the class whose mean picture in `train` is the nearest."""
    flat = train.pixels.reshape(len(train), -1).astype(np.float64)
    means = np.stack([flat[train.targets == k].mean(axis=0) for k in np.unique(train.targets)])
    queries = test.pixels.reshape(len(test), -1).astype(np.float64)
    # |q - m|² without the |q|² that all classes share
    distances = (means**2).sum(axis=1) - 2 * queries @ means.T
    return float(np.mean(distances.argmin(axis=1) == test.targets))
