"""Dynamic batching: requests that wait together are run together.

One batcher stands before each model version. It is the only queue: bounded, in order of arrival,
and each request keeps its own future, so no answer can reach another caller. What runs the batch is
given as an executor: an ONNX Runtime session in the engine, a call to a replica in the gateway.
"""

import asyncio
import logging
import time
from collections import deque
from typing import NamedTuple, Protocol, cast

import numpy as np

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    InternalError,
    NotReadyError,
    OverloadedError,
)
from atril_common.tensors import Tensor

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


class ExecutionTimes(NamedTuple):
    """When the stages of one execution began and ended, nanoseconds on the monotonic clock."""

    input_start: int
    infer_start: int
    infer_end: int
    output_end: int


class BatchResult(NamedTuple):
    """The outputs of one batch, and the version of the model that computed them."""

    outputs: Tensors
    model_version: str


class Executor(Protocol):
    """Runs one batch."""

    def execute(self, batch: InferRequest) -> "BatchResult | asyncio.Future[BatchResult]":
        """Run the model once: the answer itself, or a future of it when it is computed elsewhere.

        Args:
            batch: the inputs of all its requests, the outputs that any of them wants (empty: all),
                the options of the first (requests share them if `BatchPolicy.same_options`), and
                the latest of their deadlines.

        Raises:
            AtrilError: the batch failed.
        """
        ...


class BatchObserver(Protocol):
    """Is told what the batcher did; called on the event loop."""

    def executed(self, batch_size: int, enqueued_ns: list[int], times: ExecutionTimes) -> None:
        """A batch was answered; `enqueued_ns` has one entry a request."""
        ...

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Requests were answered with an error, after `spent_ns` in all."""
        ...

    def cancelled(self, requests: int) -> None:
        """Requests were dropped before they ran because their callers went away."""
        ...


class BatchPolicy(NamedTuple):
    """How a model batches.

    `max_batch_size` 0 is a model without a batch dimension, which runs one request at a time.
    `concurrency` is how many batches may be under way at once. With `same_options` only requests
    whose options are equal share a batch, for an executor that hands them on.
    """

    max_batch_size: int
    max_queue_delay_s: float
    max_queue_size: int
    concurrency: int = 1
    same_options: bool = False


class _Waiting(NamedTuple):
    request: InferRequest
    rows: int
    signature: tuple[tuple[str, tuple[int, ...]], ...]
    future: asyncio.Future[InferResponse]
    enqueued_ns: int


class DynamicBatcher:
    """A bounded queue before one model that runs what waits in batches.

    A batch leaves when an executor is free and the batch is full, or the oldest request in it has
    waited `max_queue_delay_s`. Requests whose inner shapes differ never share a batch.
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
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._running = 0
        self._flush: asyncio.Handle | None = None
        self._flush_is_immediate = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """Requests that wait to be run."""
        return len(self._queue)

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
        if len(self._queue) >= self._policy.max_queue_size:
            self._forget_cancelled()
        if len(self._queue) >= self._policy.max_queue_size:
            error = OverloadedError(
                f"Exceeds maximum queue size: {self._policy.max_queue_size} requests wait for "
                f"model '{self._model_name}'"
            )
            self._observer.failed(1, error)
            raise error
        future: asyncio.Future[InferResponse] = self._loop.create_future()
        signature = tuple([(name, tensor.shape[1:]) for name, tensor in request.inputs.items()])
        self._queue.append(_Waiting(request, rows, signature, future, time.monotonic_ns()))
        self._rows += rows
        if self._running < self._policy.concurrency:
            self._schedule()
        return future

    async def close(self) -> None:
        """Refuse new requests and wait until every accepted one is answered."""
        self._closed = True
        if self._queue or self._running:
            self._idle.clear()
            self._schedule()
            await self._idle.wait()

    def _schedule(self) -> None:
        """Arrange for a flush: at once if a batch is due, else when the oldest waited enough."""
        policy = self._policy
        due = policy.max_queue_delay_s <= 0 or self._rows >= policy.max_batch_size or self._closed
        if self._flush is not None:
            if not due or self._flush_is_immediate:
                return
            self._flush.cancel()
        self._flush_is_immediate = due
        if due:
            self._flush = self._loop.call_soon(self._run_next)
        else:
            waited_s = (time.monotonic_ns() - self._queue[0].enqueued_ns) / 1e9
            delay_s = max(0.0, policy.max_queue_delay_s - waited_s)
            self._flush = self._loop.call_later(delay_s, self._run_next)

    def _run_next(self) -> None:
        self._flush = None
        if self._running >= self._policy.concurrency:
            return  # `_finish` schedules the next flush
        batch = self._take()
        if batch:
            self._run(batch)
        if self._queue:
            if self._running < self._policy.concurrency:
                self._schedule()
        elif not self._running:
            self._idle.set()

    def _take(self) -> list[_Waiting]:
        """Remove the next batch from the head of the queue, in order, dropping what is too late."""
        queue, batch, rows = self._queue, list[_Waiting](), 0
        limit = max(1, self._policy.max_batch_size)
        same_options = self._policy.same_options
        now_s = self._loop.time()
        while queue:
            waiting = queue[0]
            if self._is_dead(waiting, now_s):
                queue.popleft()
                self._rows -= waiting.rows
                continue
            if batch and (
                rows + waiting.rows > limit
                or waiting.signature != batch[0].signature
                or (same_options and waiting.request.options != batch[0].request.options)
                or not self._policy.max_batch_size
            ):
                break
            batch.append(queue.popleft())
            rows += waiting.rows
        self._rows -= rows
        return batch

    def _is_dead(self, waiting: _Waiting, now_s: float) -> bool:
        if waiting.future.cancelled():
            self._observer.cancelled(1)
            return True
        deadline_s = waiting.request.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            error = DeadlineExceededError(
                f"Request timeout expired: the deadline passed while the request waited for model "
                f"'{self._model_name}'"
            )
            self._observer.failed(1, error, time.monotonic_ns() - waiting.enqueued_ns)
            waiting.future.set_exception(error)
            return True
        return False

    def _forget_cancelled(self) -> None:
        """Give the places of callers who left to others."""
        alive = [waiting for waiting in self._queue if not waiting.future.cancelled()]
        gone = len(self._queue) - len(alive)
        if gone:
            self._observer.cancelled(gone)
            self._queue = deque(alive)
            self._rows = sum(waiting.rows for waiting in alive)

    def _run(self, batch: list[_Waiting]) -> None:
        started_ns = time.monotonic_ns()
        first = batch[0].request
        outputs = first.outputs
        if any(w.request.outputs != outputs for w in batch):
            outputs = _outputs_of_any(batch)
        try:
            if len(batch) == 1:
                merged = first
            else:
                inputs = {
                    name: np.concatenate([w.request.inputs[name] for w in batch])
                    for name in first.inputs
                }
                deadline_s = _latest([w.request.deadline_s for w in batch])
                merged = first._replace(inputs=inputs, outputs=outputs, deadline_s=deadline_s)
            infer_ns = time.monotonic_ns()
            result = self._executor.execute(merged)
        except Exception as err:  # noqa: BLE001  # logged in _as_atril_error, and answered
            self._fail(batch, _as_atril_error(err))
            return
        if isinstance(result, BatchResult):
            self._answer(batch, result, started_ns, infer_ns)
            return
        self._running += 1
        result.add_done_callback(lambda done: self._finish(batch, done, started_ns, infer_ns))

    def _finish(
        self,
        batch: list[_Waiting],
        done: asyncio.Future[BatchResult],
        started_ns: int,
        infer_ns: int,
    ) -> None:
        """An execution elsewhere has ended; answer it and start what waited for the executor."""
        self._running -= 1
        if done.cancelled():
            self._fail(batch, InternalError("the execution was cancelled"))
        elif (error := done.exception()) is None:
            self._answer(batch, done.result(), started_ns, infer_ns)
        else:
            self._fail(batch, _as_atril_error(error))
        if self._queue:
            self._schedule()
        elif not self._running:
            self._idle.set()

    def _answer(
        self, batch: list[_Waiting], result: BatchResult, started_ns: int, infer_ns: int
    ) -> None:
        """Give each request its own rows."""
        infer_end_ns = time.monotonic_ns()
        outputs, version = result
        offset = 0
        alone = len(batch) == 1
        if not alone and (short := _not_by_rows(outputs, sum(w.rows for w in batch))):
            error = InternalError(
                f"output '{short}' of model '{self._model_name}' does not have one row for each "
                f"row of the batch, so the model cannot be batched"
            )
            self._fail(batch, error)
            return
        missing = {n for w in batch for n in w.request.outputs if n not in outputs}
        if missing:
            error = InternalError(
                f"model '{self._model_name}' did not answer output {sorted(missing)}"
            )
            self._fail(batch, error)
            return
        for waiting in batch:
            end = offset + waiting.rows
            names = waiting.request.outputs or outputs
            rows = {name: outputs[name] if alone else outputs[name][offset:end] for name in names}
            offset = end
            if not waiting.future.done():
                waiting.future.set_result(InferResponse(self._model_name, version, rows))
        self._observer.executed(
            offset,
            [waiting.enqueued_ns for waiting in batch],
            ExecutionTimes(started_ns, infer_ns, infer_end_ns, time.monotonic_ns()),
        )

    def _fail(self, batch: list[_Waiting], error: AtrilError) -> None:
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)
        now_ns = time.monotonic_ns()
        self._observer.failed(len(batch), error, sum(now_ns - w.enqueued_ns for w in batch))


def _latest(deadlines_s: list[float | None]) -> float | None:
    """Until when somebody waits; None if somebody waits for ever."""
    return None if None in deadlines_s else max(cast(list[float], deadlines_s))


def _outputs_of_any(batch: list[_Waiting]) -> tuple[str, ...]:
    """The outputs that any request of a batch wants; empty, which is all, if one wants all."""
    if not all(w.request.outputs for w in batch):
        return ()
    return tuple(dict.fromkeys(name for w in batch for name in w.request.outputs))


def _not_by_rows(outputs: Tensors, rows: int) -> str | None:
    """An output that cannot be cut into the batch's requests, if there is one."""
    for name, tensor in outputs.items():
        if not tensor.ndim or tensor.shape[0] != rows:
            return name
    return None


def _as_atril_error(error: BaseException) -> AtrilError:
    """What the callers of a failed batch are told; an unforeseen error is logged, never lost."""
    if isinstance(error, AtrilError):
        return error
    logger.error("execution_failed", exc_info=error)
    return InternalError("the execution failed; the reason is in the server's log")
