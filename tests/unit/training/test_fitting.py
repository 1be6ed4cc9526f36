"""The training loop."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from atril_training.errors import DivergedError
from atril_training.fitting import (
    EpochRecord,
    Objective,
    SilentReporter,
    Validation,
    deterministic,
    fit,
    make_optimizer,
    rate_at,
)
from atril_training.recipes import Optimization

PLAN = Optimization(epochs=3, batch_size=4, peak_learning_rate=0.1, warm_up_fraction=0.0)


class _Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.batches: list[tuple[int, int, int]] = []
        self.epochs: list[EpochRecord] = []

    def stage_started(self, stage: str, epochs: int) -> None:
        self.stages.append((stage, epochs))

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self.batches.append((epoch, batch, batches))

    def epoch_finished(self, record: EpochRecord) -> None:
        self.epochs.append(record)


class _Line(Objective[tuple[Tensor, Tensor]]):
    """Fit a line through noise-free points; the validation scores are dictated."""

    def __init__(self, network: nn.Module, scores: tuple[float, ...] = (1.0, 2.0, 3.0)) -> None:
        self.network = network
        self.scores = iter(scores)
        self.x = torch.linspace(-1, 1, 8)[:, None]
        self.started: list[tuple[int, int]] = []
        self.after_epoch: list[dict[str, Tensor]] = []

    @property
    def steps(self) -> int:
        return 2

    def epoch_started(self, epoch: int, epochs: int) -> None:
        self.started.append((epoch, epochs))

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(8, generator=generator).split(4):
            yield self.x[rows], 3 * self.x[rows] + 1

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        assert self.network.training
        x, y = batch
        loss: Tensor = (self.network(x) - y).square().mean()
        return loss

    def validate(self) -> Validation:
        assert not self.network.training
        assert not torch.is_grad_enabled()
        self.after_epoch.append({k: v.clone() for k, v in self.network.state_dict().items()})
        score = next(self.scores)
        return Validation((score,), {"score": score})


def _network(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(1, 1)


def test_weights_kept_are_those_of_the_best_epoch() -> None:
    """The highest score decides, the first of equals, and not the last epoch."""
    network = _network()
    objective = _Line(network, scores=(1.0, 5.0, 5.0))
    result = fit(network, objective, PLAN, SilentReporter(), seed=0)
    assert result.best_epoch == 2
    assert all(
        torch.equal(value, objective.after_epoch[1][name])
        for name, value in network.state_dict().items()
    )
    assert not torch.equal(network.weight, objective.after_epoch[2]["weight"])
    assert not network.training
    assert [record.validation["score"] for record in result.epochs] == [1.0, 5.0, 5.0]


def test_the_loss_falls() -> None:
    """The mean loss of the third epoch is below that of the first."""
    network = _network()
    result = fit(network, _Line(network), PLAN, SilentReporter(), seed=0)
    assert result.epochs[2].train_loss < result.epochs[0].train_loss


def test_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    """The order of the examples is drawn from the seed and from nothing else."""

    def run(seed: int) -> Tensor:
        network = _network()
        fit(network, _Line(network), PLAN, SilentReporter(), seed=seed)
        return network.weight.detach()

    torch.manual_seed(111)
    first = run(5)
    torch.manual_seed(222)
    assert torch.equal(first, run(5))
    assert not torch.equal(first, run(6))


def test_reporter_and_objective_are_told_of_everything() -> None:
    """Stage, epochs and batches, all counted from 1."""
    network, notes = _network(), _Notes()
    objective = _Line(network)
    result = fit(network, objective, PLAN, notes, seed=0, stage="fine-tuning")
    assert notes.stages == [("fine-tuning", 3)]
    assert notes.batches == [(epoch, batch, 2) for epoch in (1, 2, 3) for batch in (1, 2)]
    assert tuple(notes.epochs) == result.epochs
    assert objective.started == [(1, 3), (2, 3), (3, 3)]
    assert result.stage == "fine-tuning"


def test_loss_that_is_not_a_number_ends_the_training() -> None:
    """The error says where it happened and at which learning rate."""
    network = _network()
    exploding = replace(PLAN, peak_learning_rate=1e30, optimizer="sgd")
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) in epoch \d, batch \d of 2.*rate [19]"
    ):
        fit(network, _Line(network), exploding, SilentReporter(), seed=0)


def test_weight_decay_is_on_weights_alone() -> None:
    """Biases, normalisations and slopes of activations are not pulled to zero (lecture 7.1.6)."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(), nn.Linear(2, 2))
    optimizer = make_optimizer(network, replace(PLAN, weight_decay=0.1))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = {name: decay[id(parameter)] for name, parameter in network.named_parameters()}
    assert named == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
        "2.weight": 0.0, "3.weight": 0.1, "3.bias": 0.0,
    }  # fmt: skip


def test_frozen_parameters_stay_frozen() -> None:
    """What needs no gradient is not given to the optimizer."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    given = [p for group in make_optimizer(network, PLAN).param_groups for p in group["params"]]
    assert {id(p) for p in given} == {id(p) for p in network[1].parameters()}


def test_an_optimizer_of_whole_data_is_refused() -> None:
    """L-BFGS does not quietly become another optimizer where steps are on batches."""
    with pytest.raises(ValueError, match="got lbfgs"):
        make_optimizer(nn.Linear(2, 2), replace(PLAN, optimizer="lbfgs"))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cosine", {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 99: 0.000304586490452135}),
        ("constant", {0: 0.1, 9: 1.0, 10: 1.0, 99: 1.0}),
        ("inverse_sqrt", {0: 0.1, 9: 1.0, 39: 0.5, 89: 1 / 3}),
    ],
)
def test_rate_rises_and_then_follows_its_schedule(schedule: str, shares: dict[int, float]) -> None:
    """A tenth of 100 steps of warm-up, then each schedule's own formula."""
    plan = replace(PLAN, schedule=schedule, warm_up_fraction=0.1)
    assert {step: rate_at(step, 100, plan) for step in shares} == pytest.approx(shares)


def test_gradients_are_shortened_to_the_limit() -> None:
    """With plain SGD at rate 1 the first step is as long as the limit, and without one longer."""

    def first_step(limit: float | None) -> float:
        network = _network()
        before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        plan = replace(
            PLAN, epochs=1, optimizer="sgd", betas=(0.0, 0.0), peak_learning_rate=1.0,
            schedule="constant", clip_norm=limit,
        )  # fmt: skip
        objective = _Line(network)
        objective.__class__ = _OneStep
        fit(network, objective, plan, SilentReporter(), seed=0)
        after = torch.cat([p.detach().flatten() for p in network.parameters()])
        return float((after - before).norm())

    assert first_step(0.01) == pytest.approx(0.01, rel=1e-3)
    assert first_step(None) > 0.1


class _OneStep(_Line):
    """One step an epoch."""

    @property
    def steps(self) -> int:
        return 1

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.x, 3 * self.x + 1


def test_deterministic_leaves_everything_as_it_was() -> None:
    """The default generator, the threads and both switches."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with deterministic(seed=3, threads=threads + 1):
        torch.rand(3)
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
