"""L-BFGS on all examples."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from atril_training.errors import DivergedError
from atril_training.fitting import EpochRecord, SilentReporter
from atril_training.quasi_newton import fit_quasi_newton


class _Recording(SilentReporter):
    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.epochs: list[int] = []

    def stage_started(self, stage: str, epochs: int) -> None:
        self.stages.append((stage, epochs))

    def epoch_finished(self, record: EpochRecord) -> None:
        self.epochs.append(record.epoch)


def _nothing() -> Mapping[str, float]:
    return {}


def test_quadratic_is_solved_and_reported() -> None:
    """The least squares solution to 1e-7, every round told, in eval mode at the end."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    network = nn.Linear(4, 1, bias=False).double()

    def cost() -> Tensor:
        return (network(inputs) - targets).square().mean()

    reporter = _Recording()
    fit = fit_quasi_newton(network, cost, 3, reporter, figures=_nothing)
    expected = torch.linalg.lstsq(inputs, targets).solution.T
    torch.testing.assert_close(network.weight.detach(), expected, atol=1e-7, rtol=0)
    assert (reporter.stages, reporter.epochs) == ([("", 3)], [1, 2, 3])
    assert fit.best_epoch == 3
    assert not network.training


def test_divergence_is_told() -> None:
    """A cost that is not a number stops the fit and says in which round."""
    network = nn.Linear(1, 1)

    def cost() -> Tensor:
        return (network.weight * torch.nan).sum()

    with pytest.raises(DivergedError, match="the cost is nan in round 1 of 2"):
        fit_quasi_newton(network, cost, 2, SilentReporter(), figures=_nothing)
