"""Which batch leaves when, and who gets which rows of the answer."""

import asyncio
import logging
import time
from collections.abc import Sequence, Set
from functools import partial

from atril_common.batching.execution import (
    BatchObserver,
    BatchResult,
    Departure,
    ExecutionTimes,
    Executor,
)
from atril_common.batching.merging import merge, split
from atril_common.batching.ordering import OrderedRelease, Ticket
from atril_common.batching.policy import BatchPolicy
from atril_common.batching.queue import RequestQueue, Waiting
from atril_common.core import InferRequest, InferResponse
from atril_common.errors import AtrilError, InternalError, NotReadyError

logger = logging.getLogger(__name__)


class DynamicBatcher:
    """A bounded queue before one model that runs what waits in batches.

    A batch leaves when an executor is free and the batch is full or of a preferred size, or the
    oldest request in it has waited `max_queue_delay_s`. Requests whose inner shapes differ never
    share a batch, and none overtakes another of its priority.
    """

    def __init__(
        self,
        model_name: str,
        executor: Executor,
        policy: BatchPolicy,
        observer: BatchObserver,
    ) -> None:
        self._model_name = model_name
        self._executor = executor
        self._policy = policy
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._queue = RequestQueue(model_name, policy, observer, self._loop)
        self._limit = max(1, policy.max_batch_size)
        self._due_rows = min([self._limit, *policy.preferred_batch_sizes])
        """While fewer rows wait, no batch is due for its size."""
        self._order = OrderedRelease() if policy.preserve_ordering else None
        self._running = 0
        self._flush: asyncio.Handle | None = None
        self._flush_is_immediate = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """Requests that wait to be run."""
        return self._queue.count

    def submit(self, request: InferRequest, rows: int) -> asyncio.Future[InferResponse]:
        """Queue a validated request of `rows` rows.

        Raises:
            OverloadedError: the queue is full.
            NotReadyError: the batcher is closed.
        """
        if self._closed:
            raise NotReadyError(
                f"model '{self._model_name}' is not at ready state: it is unloading"
            )
        future: asyncio.Future[InferResponse] = self._loop.create_future()
        waiting = self._queue.put(request, rows, future)
        if self._running < self._policy.concurrency and not self._flush_is_immediate:
            if self._may_be_due(waiting):
                self._flush_soon()
            elif self._flush is None:
                self._flush_after_delay()
        return future

    async def close(self) -> None:
        """Refuse new requests and wait until every accepted one is answered."""
        self._closed = True
        if self._queue.count or self._running:
            self._idle.clear()
            self._flush_soon()
            await self._idle.wait()

    def _may_be_due(self, newest: Waiting) -> bool:
        """Whether a batch might leave now that `newest` has come; `_take` knows."""
        if self._policy.max_queue_delay_s <= 0 or self._queue.rows >= self._due_rows:
            return True
        lane = newest.lane
        return len(lane) > 1 and self._cannot_join(lane[-2], newest)

    def _flush_soon(self) -> None:
        if not self._flush_is_immediate:
            if self._flush is not None:
                self._flush.cancel()
            self._flush_is_immediate = True
            self._flush = self._loop.call_soon(self._run_next)

    def _flush_after_delay(self) -> None:
        waited_s = (time.monotonic_ns() - self._queue.oldest_ns()) / 1e9
        delay_s = max(0.0, self._policy.max_queue_delay_s - waited_s)
        self._flush = self._loop.call_later(delay_s, self._run_next, True)

    def _run_next(self, delay_over: bool = False) -> None:
        """Let a batch leave if one is due; `delay_over` where the oldest has waited its delay."""
        self._flush, self._flush_is_immediate = None, False
        if self._running >= self._policy.concurrency:
            return  # `_finish` arranges the next flush
        batch, departure = self._take(delay_over)
        if batch:
            self._observer.departed(departure)
            self._run(batch)
        if self._queue.count:
            if not batch:
                self._flush_after_delay()
            elif self._running < self._policy.concurrency:
                self._flush_soon()
        elif not self._running:
            self._idle.set()

    def _take(self, delay_over: bool) -> tuple[list[Waiting], Departure]:
        """Remove the next batch from the queue; an empty one where it is better to wait."""
        batch, departure = self._fill()
        policy = self._policy
        if not batch or self._closed:
            return batch, departure
        delay_over = delay_over or self._has_waited(batch)
        if policy.preferred_batch_sizes and not delay_over:
            count = preferred_prefix([w.rows for w in batch], policy.preferred_batch_sizes)
            if count:
                self._queue.put_back(batch[count:])
                return batch[:count], Departure.PREFERRED
        if departure is Departure.DELAY and policy.max_queue_delay_s > 0 and not delay_over:
            self._queue.put_back(batch)
            return [], departure
        return batch, departure

    def _has_waited(self, batch: list[Waiting]) -> bool:
        delay_ns = self._policy.max_queue_delay_s * 1e9
        if delay_ns <= 0:
            return False
        return time.monotonic_ns() - min(w.enqueued_ns for w in batch) >= delay_ns

    def _fill(self) -> tuple[list[Waiting], Departure]:
        """Remove as many as fit together from the head of the queue, in order."""
        queue, limit = self._queue, self._limit
        batch, rows = list[Waiting](), 0
        now_s = self._loop.time()
        while queue.count and (waiting := queue.head(now_s)) is not None:
            if batch:
                if self._cannot_join(batch[0], waiting):
                    return batch, Departure.SHAPE
                if rows + waiting.rows > limit:
                    return batch, Departure.FULL
            queue.take(waiting)
            batch.append(waiting)
            rows += waiting.rows
            if rows >= limit:
                return batch, Departure.FULL
        return batch, Departure.DELAY

    def _cannot_join(self, first: Waiting, other: Waiting) -> bool:
        return other.signature != first.signature or (
            self._policy.same_options and other.request.options != first.request.options
        )

    def _run(self, batch: list[Waiting]) -> None:
        started_ns = infer_ns = time.monotonic_ns()
        ticket = self._order.enter() if self._order is not None else None
        try:
            merged = merge(batch)
            infer_ns = time.monotonic_ns()
            result = self._executor.execute(merged)
        except Exception as err:  # noqa: BLE001  # logged in _as_atril_error, and answered
            self._settle(batch, started_ns, infer_ns, ticket, _as_atril_error(err))
            return
        if isinstance(result, BatchResult):
            self._settle(batch, started_ns, infer_ns, ticket, result)
            return
        self._running += 1
        result.add_done_callback(partial(self._finish, batch, started_ns, infer_ns, ticket))

    def _finish(
        self,
        batch: list[Waiting],
        started_ns: int,
        infer_ns: int,
        ticket: Ticket | None,
        done: asyncio.Future[BatchResult],
    ) -> None:
        """An execution elsewhere has ended; answer it and start what waited for the executor."""
        self._running -= 1
        outcome: BatchResult | AtrilError
        if done.cancelled():
            outcome = InternalError("the execution was cancelled")
        elif (error := done.exception()) is None:
            outcome = done.result()
        else:
            outcome = _as_atril_error(error)
        self._settle(batch, started_ns, infer_ns, ticket, outcome)
        if self._queue.count:
            self._flush_soon()
        elif not self._running:
            self._idle.set()

    def _settle(
        self,
        batch: list[Waiting],
        started_ns: int,
        infer_ns: int,
        ticket: Ticket | None,
        outcome: BatchResult | AtrilError,
    ) -> None:
        """Answer a batch, when its turn comes where the order is kept."""
        stages_ns = (started_ns, infer_ns, time.monotonic_ns())
        if ticket is None or self._order is None:
            self._answer(batch, outcome, stages_ns)
        else:
            self._order.settle(ticket, partial(self._answer, batch, outcome, stages_ns))

    def _answer(
        self,
        batch: list[Waiting],
        outcome: BatchResult | AtrilError,
        stages_ns: tuple[int, int, int],
    ) -> None:
        """Give each request its own rows, or all of them the error."""
        if isinstance(outcome, AtrilError):
            self._fail(batch, outcome)
            return
        outputs, version = outcome
        try:
            answers = split(self._model_name, batch, outputs)
        except InternalError as err:
            self._fail(batch, err)
            return
        rows = 0
        times = ExecutionTimes(*stages_ns, time.monotonic_ns())
        for waiting, own in zip(batch, answers, strict=True):
            rows += waiting.rows
            if waiting.request.trace is not None:
                waiting.request.trace.executed(waiting.enqueued_ns, times)
            if not waiting.future.done():
                waiting.future.set_result(InferResponse(self._model_name, version, own))
        self._observer.executed(rows, [waiting.enqueued_ns for waiting in batch], times)

    def _fail(self, batch: list[Waiting], error: AtrilError) -> None:
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)
        now_ns = time.monotonic_ns()
        self._observer.failed(len(batch), error, sum(now_ns - w.enqueued_ns for w in batch))


def preferred_prefix(rows: Sequence[int], preferred: Set[int]) -> int:
    """How many of the requests make the best batch of a preferred size; 0 if none does.

    The longest prefix whose rows are of a preferred size; where none is and they outgrow the
    largest preferred size, the longest that does not.
    """
    best, total, largest = 0, 0, max(preferred)
    for count, more in enumerate(rows):
        if total + more > largest and not best:
            best = count
        total += more
        if total in preferred:
            best = count + 1
    return best


def _as_atril_error(error: BaseException) -> AtrilError:
    """What the callers of a failed batch are told; an unforeseen error is logged, never lost."""
    if isinstance(error, AtrilError):
        return error
    logger.error("execution_failed", exc_info=error)
    return InternalError("the execution failed; the reason is in the server's log")
