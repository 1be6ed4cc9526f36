"""L-BFGS on all examples at once, for small problems whose exact minimum is wanted."""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from atril_training.errors import DivergedError
from atril_training.fitting import EpochRecord, Fit, Reporter

ITERATIONS = 20
"""Of a round, after which progress is reported."""

_HISTORY = 100


def fit_quasi_newton(
    network: nn.Module,
    cost: Callable[[], Tensor],
    rounds: int,
    reporter: Reporter,
    *,
    figures: Callable[[], Mapping[str, float]],
) -> Fit:
    """Minimise a cost of all examples; the last weights, which have the lowest cost, are kept.

    The step is found by a line search with the strong Wolfe conditions.

    Source: Liu & Nocedal 1989; lecture 7.7.

    Args:
        network: whose parameters change; float64 parameters come nearest to the minimum.
        cost: of the network as it is, a scalar.
        rounds: of `ITERATIONS` each.
        reporter: told of every round as of an epoch.
        figures: measured after each round, in eval mode and without gradients.

    Raises:
        DivergedError: the cost became NaN or infinite.
    """
    reporter.stage_started("", rounds)
    optimizer = torch.optim.LBFGS(
        network.parameters(),
        max_iter=ITERATIONS,
        history_size=_HISTORY,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cost()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return value

    records = []
    for number in range(1, rounds + 1):
        started_s = time.perf_counter()
        network.train()
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        network.eval()
        with torch.no_grad():
            value, measured = cost().item(), figures()
        if not math.isfinite(value):
            raise DivergedError(f"the cost is {value} in round {number} of {rounds}")
        reporter.batch_finished(number, 1, 1, value)
        records.append(EpochRecord(number, value, measured, time.perf_counter() - started_s))
        reporter.epoch_finished(records[-1])
    return Fit("", tuple(records), rounds)
