"""The training loop: seeded, chosen on the validation split, judged once on the test split.

Dimensions: B batch, C channels, H height, W width.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_common.imaging import normalise
from atril_common.model_config import ImageInput
from atril_models import create_model
from atril_training.datasets import ImageDataset, Split
from atril_training.errors import DivergedError
from atril_training.recipes import Recipe

_EVALUATION_BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a network does on a split; `loss` is the mean cross-entropy in nats."""

    loss: float
    errors: int
    examples: int

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose most probable class is the right one."""
        return 1 - self.errors / self.examples


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One pass over the training split; `train_*` are averages over it while it was learnt."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    duration_s: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """A trained network, as it was after its best epoch, and how it came about."""

    network: nn.Module
    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    test: Evaluation
    duration_s: float


class Reporter(Protocol):
    """Told how training goes on."""

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """One step is done: the `batch`-th of `batches` in this epoch; all count from 1."""
        ...

    def epoch_finished(self, record: EpochRecord) -> None:
        """One epoch is done and validated."""
        ...


class SilentReporter:
    """Tells nobody."""

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Nothing."""

    def epoch_finished(self, record: EpochRecord) -> None:
        """Nothing."""


def train(
    recipe: Recipe, dataset: ImageDataset, image: ImageInput, reporter: Reporter
) -> TrainingRun:
    """Train from scratch by a recipe.

    The same recipe on the same data gives bit for bit the same weights on the same machine,
    whatever else it is doing. The weights kept are those of the epoch with the fewest errors on the
    validation split, the lower loss deciding among equals; the test split is looked at once, with
    these.

    Raises:
        DivergedError: the loss became NaN or infinite.
        UnknownArchitectureError: the recipe names an architecture that is not in the catalogue.
    """
    started_s = time.perf_counter()
    with _deterministic(recipe.seed, recipe.threads):
        network = create_model(recipe.architecture)
        learner = _Learner(recipe, network, dataset.train, image, reporter)
        records: list[EpochRecord] = []
        best: tuple[float, float] | None = None
        best_epoch, best_weights = 0, network.state_dict()
        for epoch in range(1, recipe.epochs + 1):
            record = _run_epoch(epoch, learner, dataset.validation)
            records.append(record)
            rank = (record.validation_accuracy, -record.validation_loss)
            if best is None or rank > best:
                best, best_epoch = rank, epoch
                best_weights = deepcopy(network.state_dict())
            reporter.epoch_finished(record)
        network.load_state_dict(best_weights)
        test = evaluate(network, dataset.test, image)
    return TrainingRun(
        network=network.eval(),
        epochs=tuple(records),
        best_epoch=best_epoch,
        test=test,
        duration_s=time.perf_counter() - started_s,
    )


def evaluate(network: nn.Module, split: Split, image: ImageInput) -> Evaluation:
    """Loss and errors on a whole split; leaves the network in eval mode."""
    network.eval()
    loss, errors = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(split), _EVALUATION_BATCH_SIZE):
            rows = slice(start, start + _EVALUATION_BATCH_SIZE)
            targets = torch.from_numpy(split.targets[rows])
            logits = network(torch.from_numpy(normalise(split.pixels[rows], image)))
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
            errors += int((logits.argmax(dim=1) != targets).sum())
    return Evaluation(loss=loss / len(split), errors=errors, examples=len(split))


def shift_pictures(pixels: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Move each picture by its own random number of pixels; what comes in is background, 0.

    Shape: uint8 [B, C, H, W]; returns the same. Both shifts are uniform in ±max_shift.
    """
    batch, _channels, height, width = pixels.shape
    padded = functional.pad(pixels, (max_shift,) * 4)
    offsets = torch.randint(0, 2 * max_shift + 1, (2, batch, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height))[:, None, :, None]  # [B, 1, H, 1]
    columns = (offsets[1] + torch.arange(width))[:, None, None, :]  # [B, 1, 1, W]
    pictures = torch.arange(batch)[:, None, None, None]
    channels = torch.arange(pixels.shape[1])[None, :, None, None]
    return padded[pictures, channels, rows, columns]


class _Learner:
    """The state of one training run: network, optimizer, schedule and random order."""

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        split: Split,
        image: ImageInput,
        reporter: Reporter,
    ) -> None:
        self.recipe = recipe
        self.network = network
        self.pixels = torch.from_numpy(split.pixels)
        self.targets = torch.from_numpy(split.targets)
        self.image = image
        self.reporter = reporter
        self.batches = max(1, len(split) // recipe.batch_size)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.peak_learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate_at)

    def _rate_at(self, step: int) -> float:
        """Share of the peak rate: a linear rise, then half a cosine down to zero."""
        steps = self.batches * self.recipe.epochs
        warm_up = max(1, round(self.recipe.warm_up_fraction * steps))
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    def learn(self, epoch: int) -> Evaluation:
        """One pass over the training split in a new order."""
        self.network.train()
        order = torch.randperm(len(self.targets), generator=self.generator)
        loss_sum, errors, examples = 0.0, 0, 0
        for batch, rows in enumerate(
            torch.split(order, self.recipe.batch_size)[: self.batches], start=1
        ):
            loss, wrong = self._step(rows)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{self.recipe.architecture} on {self.recipe.dataset}: the loss is {loss} in "
                    f"epoch {epoch}, batch {batch} of {self.batches}, at the learning rate "
                    f"{self.optimizer.param_groups[0]['lr']:g}"
                )
            loss_sum += loss * len(rows)
            errors += wrong
            examples += len(rows)
            self.schedule.step()
            self.reporter.batch_finished(epoch, batch, self.batches, loss)
        return Evaluation(loss=loss_sum / examples, errors=errors, examples=examples)

    def _step(self, rows: Tensor) -> tuple[float, int]:
        pixels = self.pixels[rows]
        if self.recipe.max_shift:
            pixels = shift_pictures(pixels, self.recipe.max_shift, self.generator)
        targets = self.targets[rows]
        logits = self.network(torch.from_numpy(normalise(pixels.numpy(), self.image)))
        loss = functional.cross_entropy(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.optimizer.step()
        return loss.item(), int((logits.argmax(dim=1) != targets).sum())


def _run_epoch(epoch: int, learner: _Learner, validation: Split) -> EpochRecord:
    started_s = time.perf_counter()
    learnt = learner.learn(epoch)
    validated = evaluate(learner.network, validation, learner.image)
    return EpochRecord(
        epoch=epoch,
        train_loss=learnt.loss,
        train_accuracy=learnt.accuracy,
        validation_loss=validated.loss,
        validation_accuracy=validated.accuracy,
        duration_s=time.perf_counter() - started_s,
    )


@contextmanager
def _deterministic(seed: int, threads: int) -> Iterator[None]:
    """Seed torch, fix its threads and refuse random algorithms; put all back after."""
    before = torch.are_deterministic_algorithms_enabled()
    threads_before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(before)
