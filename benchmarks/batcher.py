"""What the batcher itself costs: requests through it with a model that does nothing.

`python -m benchmarks.batcher` prints microseconds a request for some numbers of callers, each of
whom sends its next request when the last is answered. Processor time, the least of
several rounds.
"""

import asyncio
import time

import numpy as np
import uvloop

from atril_common.batching import (
    BatchPolicy,
    BatchResult,
    Departure,
    DynamicBatcher,
    ExecutionTimes,
)
from atril_common.core import InferRequest
from atril_common.errors import AtrilError

CALLERS = (1, 16, 64)
REQUESTS = 20_000
ROUNDS = 7


class _Nothing:
    """Answers with what it was given."""

    def execute(self, batch: InferRequest) -> BatchResult:
        """See `Executor`."""
        return BatchResult({"y": batch.inputs["x"]}, "1")


class _Unobserved:
    """See `BatchObserver`; counts nothing."""

    def departed(self, reason: Departure) -> None:
        """Count nothing."""

    def executed(self, batch_size: int, enqueued_ns: list[int], times: ExecutionTimes) -> None:
        """Count nothing."""

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Count nothing."""

    def cancelled(self, requests: int) -> None:
        """Count nothing."""


async def _measure(callers: int) -> float:
    """Microseconds a request of one round."""
    policy = BatchPolicy(max_batch_size=64, max_queue_delay_s=0, max_queue_size=2048)
    batcher = DynamicBatcher("nothing", _Nothing(), policy, _Unobserved())
    x = np.zeros((1, 1, 32, 32), np.float32)

    async def call() -> None:
        for _ in range(REQUESTS // callers):
            await batcher.submit(InferRequest("nothing", {"x": x}), 1)

    start_s = time.process_time()
    await asyncio.gather(*(call() for _ in range(callers)))
    spent_s = time.process_time() - start_s
    await batcher.close()
    return 1e6 * spent_s / REQUESTS


def main() -> None:
    """Measure and print."""
    for callers in CALLERS:
        best_us = min(uvloop.run(_measure(callers)) for _ in range(ROUNDS))
        print(f"{callers:3d} callers: {best_us:.2f} us a request")


if __name__ == "__main__":
    main()
