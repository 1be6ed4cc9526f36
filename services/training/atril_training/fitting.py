"""The training loop: seeded, and the best epoch chosen on the validation split."""

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from atril_training.errors import DivergedError
from atril_training.recipes.recipe import Optimization

Batch = TypeVar("Batch")

_CHECK_EVERY_ON_GPU = 20
"""Reading a loss from a GPU waits for it, so there only each such step is looked at."""


@dataclass(frozen=True, slots=True)
class Validation:
    """How a network does on the validation split.

    `score` chooses the best epoch: higher is better, and of tuples the first entries decide.
    """

    score: tuple[float, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One pass over the training split.

    `train_loss` is the mean over it while it was learnt; `validation` has figures by name.
    """

    epoch: int
    train_loss: float
    validation: Mapping[str, float]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What a run of the loop did; the network has the weights of the best epoch."""

    stage: str
    epochs: tuple[EpochRecord, ...]
    best_epoch: int


class Reporter(Protocol):
    """Told how training goes on."""

    def stage_started(self, stage: str, epochs: int) -> None:
        """A run of the loop begins: `stage` says which, where a recipe has several."""
        ...

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Steps were done, up to the `batch`-th of `batches` in this epoch; all count from 1."""
        ...

    def epoch_finished(self, record: EpochRecord) -> None:
        """One epoch is done and validated."""
        ...


class SilentReporter:
    """Tells nobody."""

    def stage_started(self, stage: str, epochs: int) -> None:
        """Nothing."""

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Nothing."""

    def epoch_finished(self, record: EpochRecord) -> None:
        """Nothing."""


class Objective(ABC, Generic[Batch]):
    """What a network learns: batches, their loss, and how well it does on the validation split.

    It holds the network and the data, both on the device they are worked on.
    """

    @property
    @abstractmethod
    def steps(self) -> int:
        """Batches an epoch."""

    @abstractmethod
    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in a new order; all randomness is drawn from the generator, a CPU one."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, to be minimised; the network is in training mode."""

    @abstractmethod
    def validate(self) -> Validation:
        """Called after each epoch, in eval mode and without gradients."""

    def epoch_started(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, counted from 1, for what is annealed."""


def fit(
    network: nn.Module,
    objective: Objective[Batch],
    optimization: Optimization,
    reporter: Reporter,
    *,
    seed: int,
    stage: str = "",
) -> Fit:
    """Minimise an objective, and keep the weights of the epoch with the best validation score.

    The same arguments give bit for bit the same weights on the same machine within
    `deterministic`.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    reporter.stage_started(stage, optimization.epochs)
    descent = _Descent(network, objective, optimization, reporter)
    generator = torch.Generator().manual_seed(seed)
    records: list[EpochRecord] = []
    best: tuple[float, ...] | None = None
    best_epoch, best_weights = 0, network.state_dict()
    for epoch in range(1, optimization.epochs + 1):
        started_s = time.perf_counter()
        objective.epoch_started(epoch, optimization.epochs)
        train_loss = descent.run_epoch(epoch, generator)
        network.eval()
        with torch.no_grad():
            validation = objective.validate()
        record = EpochRecord(epoch, train_loss, validation.figures, time.perf_counter() - started_s)
        records.append(record)
        if best is None or validation.score > best:
            best, best_epoch = validation.score, epoch
            best_weights = deepcopy(network.state_dict())
        reporter.epoch_finished(record)
    network.load_state_dict(best_weights)
    network.eval()
    return Fit(stage, tuple(records), best_epoch)


class _Descent(Generic[Batch]):
    """Optimizer, schedule and the steps of one fit."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective[Batch],
        optimization: Optimization,
        reporter: Reporter,
    ) -> None:
        self.network = network
        self.objective = objective
        self.optimization = optimization
        self.reporter = reporter
        self.optimizer = make_optimizer(network, optimization)
        steps = objective.steps * optimization.epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_at(step, steps, optimization)
        )
        on_gpu = next(network.parameters()).is_cuda
        self.check_every = _CHECK_EVERY_ON_GPU if on_gpu else 1

    def run_epoch(self, epoch: int, generator: torch.Generator) -> float:
        """Learn each batch once; returns the mean loss."""
        self.network.train()
        steps = self.objective.steps
        total: Tensor | None = None
        for number, batch in enumerate(self.objective.batches(generator), start=1):
            loss = self._step(batch)
            total = loss if total is None else total + loss
            if number % self.check_every == 0 or number == steps:
                self._check(loss, epoch, number)
                self.reporter.batch_finished(epoch, number, steps, loss.item())
        assert total is not None, "an epoch without a batch"
        return total.item() / steps

    def _step(self, batch: Batch) -> Tensor:
        loss = self.objective.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.optimization.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.optimization.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _check(self, loss: Tensor, epoch: int, batch: int) -> None:
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"the loss is {loss.item()} in epoch {epoch}, batch {batch} of "
                f"{self.objective.steps}, at the learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g}"
            )


def make_optimizer(network: nn.Module, optimization: Optimization) -> torch.optim.Optimizer:
    """The optimizer of a recipe, with weight decay on weights alone.

    Raises:
        ValueError: L-BFGS, which takes all examples in one step: see `quasi_newton`.
    """
    if optimization.optimizer == "lbfgs":
        raise ValueError("optimizer: expected adamw or sgd for steps on batches, got lbfgs")
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": optimization.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate = optimization.peak_learning_rate
    if optimization.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=optimization.betas[0])
    return torch.optim.AdamW(groups, lr=rate, betas=optimization.betas)


def rate_at(step: int, steps: int, optimization: Optimization) -> float:
    """Share of the peak rate at a step counted from 0: a linear rise, then the schedule."""
    warm_up = max(1, round(optimization.warm_up_fraction * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    if optimization.schedule == "constant":
        return 1.0
    if optimization.schedule == "inverse_sqrt":
        return math.sqrt(warm_up / (step + 1))
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters lie."""
    return next(network.parameters()).device


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[None]:
    """Seed torch, fix its threads, refuse random and TF32 algorithms; undo it after."""
    # cuBLAS is deterministic only with a workspace of its own, read when its handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    threads_before = torch.get_num_threads()
    tf32_before = torch.backends.cudnn.allow_tf32
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.backends.cudnn.allow_tf32 = tf32_before
            torch.use_deterministic_algorithms(before)
