"""Iteration-level scheduling: requests join and leave the batch between two steps.

Source: Yu et al. 2022, "Orca", §3.1, for graphs of ONNX Runtime: an encoder that runs once for what
is admitted, and one step that runs for every row in the slot table.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from atril_common.batching import BatchResult, Executor
from atril_common.core import InferRequest
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    InternalError,
    NotReadyError,
    OverloadedError,
)
from atril_common.tensors import Tensor
from atril_inference.decoding.layout import ATTENTION, LOGITS, SOURCE, SOURCE_LENGTH, StepLayout
from atril_inference.decoding.search import Answer, Hypothesis, Search, likeliest
from atril_inference.decoding.slots import SlotTable

logger = logging.getLogger(__name__)

_UNFORESEEN = "the decoding failed; the reason is in the server's log"


class DecodingObserver(Protocol):
    """Is told what the scheduler did; called on the event loop."""

    def admitted(self, waited_s: float) -> None:
        """A request got its slots."""
        ...

    def first_token(self, since_submitted_s: float) -> None:
        """A request's first step has been taken."""
        ...

    def stepped(self, rows: int, tokens: int, duration_s: float) -> None:
        """A step of so many rows was taken, and so many tokens were written."""
        ...


class DecodingLimits(NamedTuple):
    """`slots` is the most rows of a step, `max_queue_size` the most requests that wait for some."""

    slots: int
    max_queue_size: int


class Generation:
    """One request, from its submission to its last token.

    Attributes:
        result: its hypotheses, best first; cancelling it gives its slots back before the next step.
    """

    def __init__(
        self,
        source: Sequence[int],
        begin: int,
        search: Search,
        result: "asyncio.Future[list[Hypothesis]]",
        written: Callable[[int], None],
        deadline_s: float | None,
    ) -> None:
        self.source = source
        self.begin = begin
        self.search = search
        self.result = result
        self.written = written
        self.deadline_s = deadline_s
        self.submitted_s = time.monotonic()
        self.rows: list[int] = []
        self.started = False


class ContinuousDecoder:
    """Decodes many requests at once with one encoder and one step.

    Requests are admitted in the order in which they came, each with as many slots as its search may
    take; what waits is bounded. A failing encoder ends those that were to be admitted, a failing
    step ends all that are under way, and the next ones go on.

    Args:
        model_name: for the error texts.
        encoder, step: run the graphs.
        layout: of the step.
        limits: how much at once.
        observer: is told what happens.
    """

    def __init__(
        self,
        model_name: str,
        encoder: Executor,
        step: Executor,
        layout: StepLayout,
        limits: DecodingLimits,
        observer: DecodingObserver,
    ) -> None:
        self._model_name = model_name
        self._encoder = encoder
        self._step = step
        self._observer = observer
        self._max_queue_size = limits.max_queue_size
        self._table = SlotTable(layout, limits.slots)
        self._next = np.zeros(limits.slots, np.int64)
        self._waiting: deque[Generation] = deque()
        self._active: list[Generation] = []
        self._reserved = 0
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def slots(self) -> int:
        """Most rows of a step."""
        return self._table.capacity

    @property
    def active_slots(self) -> int:
        """Rows of the next step."""
        return self._table.rows

    @property
    def waiting(self) -> int:
        """Requests without slots."""
        return len(self._waiting)

    def submit(
        self,
        source: Sequence[int],
        begin: int,
        search: Search,
        written: Callable[[int], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> Generation:
        """Queue a request.

        Args:
            source: its tokens, at least one.
            begin: the token that starts the target.
            search: its hypotheses.
            written: called with each token as soon as it is certain.
            deadline_s: on the event loop's clock.

        Raises:
            OverloadedError: too many wait.
            NotReadyError: the decoder is closed.
        """
        if self._closed:
            raise NotReadyError(
                f"model '{self._model_name}' is not at ready state: it is unloading"
            )
        if search.width > self._table.capacity:
            raise OverloadedError(
                f"a beam of {search.width} needs more than the {self._table.capacity} slots of "
                f"model '{self._model_name}'"
            )
        if len(self._waiting) >= self._max_queue_size:
            self._waiting = deque(g for g in self._waiting if not g.result.done())
        if len(self._waiting) >= self._max_queue_size:
            raise OverloadedError(
                f"Exceeds maximum queue size: {self._max_queue_size} requests wait for model "
                f"'{self._model_name}'"
            )
        loop = asyncio.get_running_loop()
        generation = Generation(source, begin, search, loop.create_future(), written, deadline_s)
        self._waiting.append(generation)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return generation

    async def close(self) -> None:
        """Refuse new requests, and wait until every accepted one has ended."""
        self._closed = True
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        try:
            while self._waiting or self._active:
                self._drop()
                admitted = self._take()
                if admitted:
                    await self._admit(admitted)
                if self._active:
                    await self._advance()
                await asyncio.sleep(0)  # inline executors would keep the loop from all else
        except Exception:
            logger.exception("decoding_failed", extra={"model_name": self._model_name})
            for generation in (*self._active, *self._waiting):
                _fail(generation, InternalError(_UNFORESEEN))
            self._waiting.clear()
            self._keep([])
        finally:
            self._running = None

    def _drop(self) -> None:
        """Let go of those whose callers left or wait no longer."""
        now_s = asyncio.get_running_loop().time()
        for generation in (*self._active, *self._waiting):
            if generation.deadline_s is not None and now_s >= generation.deadline_s:
                _fail(
                    generation,
                    DeadlineExceededError(
                        f"Request timeout expired: the deadline passed while model "
                        f"'{self._model_name}' was decoding"
                    ),
                )
        if any(generation.result.done() for generation in self._active):
            self._keep([(g, g.rows, None) for g in self._active if not g.result.done()])
        while self._waiting and self._waiting[0].result.done():
            self._waiting.popleft()

    def _take(self) -> list[Generation]:
        """Those that get slots now, in the order in which they came."""
        admitted: list[Generation] = []
        while self._waiting:
            generation = self._waiting[0]
            if generation.result.done():
                self._waiting.popleft()
                continue
            if self._reserved + generation.search.width > self._table.capacity:
                break
            self._waiting.popleft()
            self._reserved += generation.search.width
            admitted.append(generation)
        return admitted

    async def _admit(self, admitted: list[Generation]) -> None:
        lengths = [len(generation.source) for generation in admitted]
        source = np.zeros((len(admitted), max(lengths)), np.int64)
        for row, generation in enumerate(admitted):
            source[row, : lengths[row]] = generation.source
        try:
            encoded = await self._execute(
                self._encoder, {SOURCE: source, SOURCE_LENGTH: np.array(lengths, np.int64)}
            )
        except AtrilError as error:
            for generation in admitted:
                self._reserved -= generation.search.width
                _fail(generation, error)
            return
        now_s = time.monotonic()
        rows = self._table.admit(encoded, lengths)
        for row, generation in zip(rows, admitted, strict=True):
            generation.rows = [row]
            self._next[row] = generation.begin
            self._observer.admitted(now_s - generation.submitted_s)
        self._active += admitted

    async def _advance(self) -> None:
        """One step of every row."""
        started_s = time.monotonic()
        rows = self._table.rows
        try:
            outputs = await self._execute(self._step, self._table.inputs(self._next[:rows]))
        except AtrilError as error:
            for generation in self._active:
                _fail(generation, error)
            self._keep([])
            return
        self._table.remember(outputs)
        answers = _answers(outputs, max(g.search.candidates for g in self._active))
        now_s = time.monotonic()
        tokens = 0
        going_on: list[tuple[Generation, list[int], Sequence[int] | None]] = []
        for generation in self._active:
            if generation.result.done():
                continue
            advance = generation.search.advance([answers[row] for row in generation.rows])
            if not generation.started:
                generation.started = True
                self._observer.first_token(now_s - generation.submitted_s)
            if advance.written is not None:
                tokens += 1
                generation.written(advance.written)
            if generation.result.done():  # whom `written` has told may have left at once
                continue
            if advance.parents:
                parents = [generation.rows[parent] for parent in advance.parents]
                going_on.append((generation, parents, advance.tokens))
            else:
                found = generation.search.results()
                if generation.search.width > 1:  # nothing of a beam is certain before its end
                    tokens += len(found[0].tokens)
                generation.result.set_result(found)
        self._keep(going_on)
        self._observer.stepped(rows, tokens, time.monotonic() - started_s)

    def _keep(self, going_on: list[tuple[Generation, list[int], Sequence[int] | None]]) -> None:
        """Go on with these rows and next tokens, or with the tokens that they have."""
        parents = [row for _, rows, _ in going_on for row in rows]
        tokens = [
            token
            for _, rows, chosen in going_on
            for token in (self._next[rows].tolist() if chosen is None else chosen)
        ]
        places = self._table.keep(parents)
        self._next[places] = tokens
        first = 0
        for generation, rows, _ in going_on:
            generation.rows = places[first : first + len(rows)]
            first += len(rows)
        self._active = [generation for generation, _, _ in going_on]
        self._reserved = sum(generation.search.width for generation in self._active)

    async def _execute(self, executor: Executor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a graph.

        Raises:
            AtrilError: it failed; what nobody foresaw is logged and told as an internal error.
        """
        try:
            result = executor.execute(InferRequest(self._model_name, dict(inputs)))
            if not isinstance(result, BatchResult):
                result = await result
        except AtrilError:
            raise
        except Exception as err:
            logger.exception("decoding_failed", extra={"model_name": self._model_name})
            raise InternalError(_UNFORESEEN) from err
        return result.outputs


def _answers(outputs: Mapping[str, Tensor], candidates: int) -> list[Answer]:
    tokens, log_probabilities = likeliest(outputs[LOGITS], candidates)
    attention = outputs.get(ATTENTION)
    if attention is None:
        return list(map(Answer, tokens.tolist(), log_probabilities.tolist()))
    weights = map(tuple, attention.tolist())
    return list(map(Answer, tokens.tolist(), log_probabilities.tolist(), weights))


def _fail(generation: Generation, error: AtrilError) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        generation.result.set_exception(error)
