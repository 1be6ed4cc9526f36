"""Executors whose work a test can see and steer, and an observer that remembers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from atril_common.batching import (
    BatchPolicy,
    BatchResult,
    Departure,
    DynamicBatcher,
    ExecutionTimes,
    Executor,
    Tensors,
)
from atril_common.core import NO_OPTIONS, InferRequest, InferResponse, RequestOptions
from atril_common.errors import AtrilError

DEADLINE_S = 5.0

Run = Callable[[Tensors], Tensors]


@dataclass
class Observed:
    """What an observer was told."""

    batches: list[int] = field(default_factory=list)
    requests: int = 0
    failures: list[AtrilError] = field(default_factory=list)
    cancellations: int = 0
    departures: list[Departure] = field(default_factory=list)

    def departed(self, reason: Departure) -> None:
        """Note why a batch left."""
        self.departures.append(reason)

    def executed(self, batch_size: int, enqueued_ns: list[int], times: ExecutionTimes) -> None:
        """Note a batch."""
        assert list(times) == sorted(times)
        assert all(since <= times.input_start for since in enqueued_ns)
        self.batches.append(batch_size)
        self.requests += len(enqueued_ns)

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Note failures."""
        self.failures += [error] * requests

    def cancelled(self, requests: int) -> None:
        """Note requests whose callers went away."""
        self.cancellations += requests


class Inline:
    """Runs a batch at once; `run` makes the outputs, or raises."""

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or (lambda inputs: {"y": inputs["x"].copy()})
        self.seen: list[np.ndarray] = []

    def execute(self, batch: InferRequest) -> BatchResult:
        """See `Executor`."""
        inputs = batch.inputs
        self.seen.append(inputs["x"])
        return BatchResult(self._run(inputs), "7")


class Elsewhere(Inline):
    """Runs a batch when the test says so; counts how many are under way."""

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(run)
        self.waiting: list[tuple[Tensors, asyncio.Future[BatchResult]]] = []
        self.most_at_once = 0

    def execute(  # type: ignore[override]
        self, batch: InferRequest
    ) -> asyncio.Future[BatchResult]:
        """See `Executor`."""
        inputs = batch.inputs
        self.seen.append(inputs["x"])
        future: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        self.waiting.append((inputs, future))
        self.most_at_once = max(self.most_at_once, len(self.waiting))
        return future

    def finish(self, position: int = 0) -> None:
        """End one of the executions that are under way."""
        inputs, future = self.waiting.pop(position)
        try:
            future.set_result(BatchResult(self._run(inputs), "7"))
        except Exception as err:  # noqa: BLE001  # handed to the batcher, as an executor would
            future.set_exception(err)


def request(
    *values: float,
    outputs: tuple[str, ...] = (),
    deadline_s: float | None = None,
    options: RequestOptions = NO_OPTIONS,
) -> InferRequest:
    """A request with one row a value."""
    x = np.array(values, np.float64).reshape(-1, 1)
    return InferRequest("model", {"x": x}, "", outputs, deadline_s, options)


def batcher(
    executor: Inline,
    *,
    max_batch_size: int = 4,
    delay_s: float = 0,
    queue: int = 100,
    concurrency: int = 1,
) -> tuple[DynamicBatcher, Observed]:
    """A batcher and what its observer was told."""
    return batcher_of(executor, BatchPolicy(max_batch_size, delay_s, queue, concurrency))


def batcher_of(executor: Executor, policy: BatchPolicy) -> tuple[DynamicBatcher, Observed]:
    """A batcher of any policy and what its observer was told."""
    observed = Observed()
    return DynamicBatcher("model", executor, policy, observed), observed


async def spin() -> None:
    """Let the loop run what is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def rows(response: InferResponse) -> list[float]:
    """The values of an answer."""
    values: list[float] = response.outputs["y"].ravel().tolist()
    return values


async def answer(future: asyncio.Future[InferResponse]) -> InferResponse:
    """Await an answer, within the deadline."""
    return await asyncio.wait_for(future, DEADLINE_S)
