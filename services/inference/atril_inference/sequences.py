"""Sequences: the state of each is kept here, and its requests are run one after another.

Each live sequence has its own state, taken from and put back by the pairs that the configuration
names. The requests of different sequences are batched together as any others are: their states are
gathered with their inputs, and each gets its own rows of the new states. What a request sees is
therefore what its own sequence left behind, whoever else was in the batch.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from atril_common.batching import BatchObserver, DynamicBatcher, Tensors
from atril_common.core import InferRequest, InferResponse, SequenceControl
from atril_common.errors import (
    AtrilError,
    InvalidInputError,
    NotReadyError,
    OverloadedError,
)
from atril_inference.sequence_config import SequencePlan


class _Step(NamedTuple):
    """A request of a sequence, and whom to answer."""

    request: InferRequest
    future: asyncio.Future[InferResponse]


class _Sequence:
    """A sequence: its state, and its requests that are not answered yet."""

    __slots__ = ("last_used_s", "state", "steps")

    def __init__(self, state: Tensors) -> None:
        self.state = state
        self.steps: deque[_Step] = deque()
        """The first is under way."""
        self.last_used_s = 0.0


class SequenceStore:
    """The live sequences of one model, the one that was used longest ago first."""

    def __init__(self, model_name: str, plan: SequencePlan, clock: Callable[[], float]) -> None:
        self._model_name = model_name
        self._plan = plan
        self._clock = clock
        self._live: OrderedDict[int | str, _Sequence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def enter(self, control: SequenceControl) -> _Sequence:
        """The sequence that a request belongs to, begun if the request says so.

        The last request of a sequence takes it out: what comes after it must begin a new one.

        Raises:
            InvalidInputError: it is unknown, and the request does not begin it (case E27).
            OverloadedError: it would be one more than may be live.
        """
        self.drop_idle()
        name = control.sequence_id
        sequence = self._live.pop(name, None)
        if sequence is not None and self._is_idle(sequence):
            sequence = None
        if control.start:
            if len(self._live) >= self._plan.max_sequences:
                raise OverloadedError(
                    f"{self._plan.max_sequences} sequences of model '{self._model_name}' are live, "
                    f"no more may start"
                )
            sequence = _Sequence({pair.input_name: pair.initial for pair in self._plan.states})
        elif sequence is None:
            raise InvalidInputError(
                f"inference request for sequence {name} to model '{self._model_name}' must specify "
                f"the START flag on the first request of the sequence"
            )
        sequence.last_used_s = self._clock()
        if not control.end:
            self._live[name] = sequence
        return sequence

    def used(self, sequence: _Sequence) -> None:
        """A request of a sequence was answered: its idle time begins."""
        sequence.last_used_s = self._clock()

    def drop_idle(self) -> None:
        """Forget the sequences that have waited too long for their next request."""
        while self._live:
            name, sequence = next(iter(self._live.items()))
            if not self._is_idle(sequence):
                break
            del self._live[name]

    def _is_idle(self, sequence: _Sequence) -> bool:
        return not sequence.steps and self._clock() - sequence.last_used_s >= self._plan.idle_s


class SequenceScheduler:
    """Runs each sequence's requests in their order, over a batcher that all sequences share.

    A request that fails or is cancelled leaves the state as it found it.

    Args:
        model_name: for the error texts.
        plan: the states and controls of the model.
        batcher: runs one row a request.
        observer: is told of the requests that are refused for want of room.
        max_waiting: most requests that wait for the one before them.
        clock: seconds; decides when a sequence was idle for too long.
    """

    def __init__(
        self,
        model_name: str,
        plan: SequencePlan,
        batcher: DynamicBatcher,
        observer: BatchObserver,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model_name = model_name
        self._plan = plan
        self._batcher = batcher
        self._observer = observer
        self._max_waiting = max_waiting
        self._store = SequenceStore(model_name, plan, clock)
        self._waiting = 0
        self._running: set[asyncio.Future[InferResponse]] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._state_outputs = tuple(pair.output_name for pair in plan.states)

    @property
    def live(self) -> int:
        """Sequences whose state is kept."""
        return len(self._store)

    def submit(self, request: InferRequest, rows: int) -> asyncio.Future[InferResponse]:
        """Queue a validated request behind those of its sequence.

        Raises:
            InvalidInputError: no sequence, an unknown one, or more than one row.
            OverloadedError: too many requests wait, or too many sequences are live.
            NotReadyError: closed.
        """
        if self._closed:
            raise NotReadyError(
                f"model '{self._model_name}' is not at ready state: it is unloading"
            )
        control = request.options.sequence
        if control is None:
            raise InvalidInputError(
                f"inference request to model '{self._model_name}' must specify a non-zero or "
                f"non-empty sequence_id: it keeps state for sequences"
            )
        if rows != 1:
            raise InvalidInputError(
                f"inference request to model '{self._model_name}' must specify batch-size 1 due to "
                f"requirements of sequences, got {rows}"
            )
        given = {c.spec.name: c.tensor(control) for c in self._plan.controls}
        try:
            if self._waiting >= self._max_waiting:
                raise OverloadedError(
                    f"Exceeds maximum queue size: {self._waiting} requests wait for those before "
                    f"them in sequences of model '{self._model_name}'"
                )
            sequence = self._store.enter(control)
        except OverloadedError as err:
            self._observer.failed(1, err)
            raise
        future: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
        inputs = {**request.inputs, **given}
        outputs = request.outputs or self._plan.outputs
        sequence.steps.append(_Step(request._replace(inputs=inputs, outputs=outputs), future))
        if len(sequence.steps) == 1:
            self._run(sequence)
        else:
            self._waiting += 1
        self._reap_later()
        return future

    async def close(self) -> None:
        """Refuse new requests, answer those accepted, close the batcher, forget all states."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
            await asyncio.sleep(0)  # what waited for them is run by callbacks of the same futures
        await self._batcher.close()
        if self._reaper is not None:
            self._reaper.cancel()

    def _run(self, sequence: _Sequence) -> None:
        """Run the first step of a sequence on the state that the one before it left."""
        step = sequence.steps[0]
        request = step.request._replace(
            inputs={**step.request.inputs, **sequence.state},
            outputs=tuple(dict.fromkeys((*step.request.outputs, *self._state_outputs))),
        )
        try:
            running = self._batcher.submit(request, 1)
        except AtrilError as err:
            running = asyncio.get_running_loop().create_future()
            running.set_exception(err)
        self._running.add(running)
        running.add_done_callback(lambda done: self._done(sequence, done))
        step.future.add_done_callback(lambda _: running.cancel())

    def _done(self, sequence: _Sequence, done: asyncio.Future[InferResponse]) -> None:
        """Keep the new state, answer the caller, go on with the next step."""
        self._running.discard(done)
        step = sequence.steps.popleft()
        self._store.used(sequence)
        if done.cancelled():
            step.future.cancel()
        elif (error := done.exception()) is not None:
            if not step.future.done():
                step.future.set_exception(error)
        elif not step.future.done():
            response = done.result()
            # A copy, for a row of the batch's output would keep all of it.
            sequence.state = {
                pair.input_name: response.outputs[pair.output_name].copy()
                for pair in self._plan.states
            }
            answer = {name: response.outputs[name] for name in step.request.outputs}
            step.future.set_result(response._replace(outputs=answer))
        while sequence.steps:
            self._waiting -= 1
            if not sequence.steps[0].future.cancelled():
                self._run(sequence)
                break
            sequence.steps.popleft()

    def _reap_later(self) -> None:
        if self._reaper is None:
            loop = asyncio.get_running_loop()
            self._reaper = loop.call_later(self._plan.idle_s, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        self._store.drop_idle()
        if self._store:
            self._reap_later()
