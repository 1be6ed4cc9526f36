"""The batcher: no batch over its limits, every answer to its own caller, nothing lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from atril_common.batching import (
    BatchPolicy,
    BatchResult,
    DynamicBatcher,
    ExecutionTimes,
    Tensors,
)
from atril_common.core import InferRequest, InferResponse
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    InternalError,
    NotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)

DEADLINE_S = 5.0

Run = Callable[[Tensors], Tensors]


@dataclass
class Observed:
    """What an observer was told."""

    batches: list[int] = field(default_factory=list)
    requests: int = 0
    failures: list[AtrilError] = field(default_factory=list)
    cancellations: int = 0

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
    *values: float, outputs: tuple[str, ...] = (), deadline_s: float | None = None
) -> InferRequest:
    """A request with one row a value."""
    x = np.array(values, np.float64).reshape(-1, 1)
    return InferRequest("model", {"x": x}, outputs=outputs, deadline_s=deadline_s)


def batcher(
    executor: Inline,
    *,
    max_batch_size: int = 4,
    delay_s: float = 0,
    queue: int = 100,
    concurrency: int = 1,
) -> tuple[DynamicBatcher, Observed]:
    """A batcher and what its observer was told."""
    observed = Observed()
    policy = BatchPolicy(max_batch_size, delay_s, queue, concurrency)
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


async def test_requests_that_come_together_are_run_together() -> None:
    """One batch of all that waits, each caller its own rows."""
    executor = Inline()
    subject, observed = batcher(executor)
    futures = [subject.submit(request(1, 2), 2), subject.submit(request(3), 1)]
    assert [rows(await answer(f)) for f in futures] == [[1, 2], [3]]
    assert observed.batches == [3]
    assert observed.requests == 2


async def test_the_answer_names_the_model_and_the_version_that_computed_it() -> None:
    """The response is complete."""
    subject, _ = batcher(Inline())
    response = await answer(subject.submit(request(1), 1))
    assert (response.model_name, response.model_version) == ("model", "7")


async def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    """With an endless delay a batch leaves the moment it is full."""
    subject, observed = batcher(Inline(), delay_s=3600)
    futures = [subject.submit(request(float(v)), 1) for v in range(4)]
    assert [rows(await answer(f)) for f in futures] == [[0], [1], [2], [3]]
    assert observed.batches == [4]


async def test_a_lone_request_leaves_when_its_delay_ends() -> None:
    """The delay bounds the wait of the oldest request."""
    subject, observed = batcher(Inline(), delay_s=0.005)
    assert rows(await answer(subject.submit(request(1), 1))) == [1]
    assert observed.batches == [1]


async def test_a_request_that_does_not_fit_waits_for_the_next_batch() -> None:
    """No batch is over its maximum, and the order of arrival is kept."""
    executor = Inline()
    subject, observed = batcher(executor)
    futures = [
        subject.submit(request(1, 2, 3), 3),
        subject.submit(request(4, 5), 2),
        subject.submit(request(6), 1),
    ]
    assert [rows(await answer(f)) for f in futures] == [[1, 2, 3], [4, 5], [6]]
    assert observed.batches == [3, 3]
    assert np.concatenate(executor.seen).ravel().tolist() == [1, 2, 3, 4, 5, 6]


async def test_a_model_without_a_batch_dimension_runs_requests_one_by_one() -> None:
    """`max_batch_size` 0: tensors are never put together."""
    executor = Inline()
    subject, observed = batcher(executor, max_batch_size=0)
    futures = [subject.submit(request(float(v)), 1) for v in range(3)]
    assert [rows(await answer(f)) for f in futures] == [[0], [1], [2]]
    assert observed.batches == [1, 1, 1]


async def test_requests_with_different_inner_shapes_never_share_a_batch() -> None:
    """Each runs with its own shape; the order is kept."""
    subject, observed = batcher(Inline(), max_batch_size=8)
    shapes = [(1, 2), (1, 3), (1, 3), (1, 2)]
    futures = [
        subject.submit(InferRequest("model", {"x": np.full(shape, i)}), 1)
        for i, shape in enumerate(shapes)
    ]
    answers = [(await answer(f)).outputs["y"] for f in futures]
    assert [a.shape for a in answers] == shapes
    assert [int(a[0, 0]) for a in answers] == [0, 1, 2, 3]
    assert observed.batches == [1, 2, 1]


async def test_inputs_in_another_order_are_still_told_apart_by_name() -> None:
    """Shapes are compared input by input, whatever order a request lists them in."""
    subject, _ = batcher(
        Inline(lambda i: {"y": i["x"].copy(), "z": i["w"].copy()}), max_batch_size=8
    )
    two, three = np.zeros((1, 2)), np.ones((1, 3))
    requests = [
        InferRequest("model", {"x": two, "w": three}),
        InferRequest("model", {"w": two, "x": three}),
    ]
    futures = [subject.submit(r, 1) for r in requests]
    answers = [await answer(f) for f in futures]
    assert [a.outputs["y"].shape for a in answers] == [(1, 2), (1, 3)]
    assert [a.outputs["z"].shape for a in answers] == [(1, 3), (1, 2)]


async def test_each_request_gets_the_outputs_it_asked_for_in_its_order() -> None:
    """Requests of one batch may ask for different outputs."""
    subject, observed = batcher(Inline(lambda i: {"y": i["x"], "z": -i["x"]}))
    wanted: list[tuple[str, ...]] = [("y",), ("z", "y"), ()]
    futures = [subject.submit(request(1, outputs=names), 1) for names in wanted]
    answers = [await answer(f) for f in futures]
    assert [tuple(a.outputs) for a in answers] == [("y",), ("z", "y"), ("y", "z")]
    assert observed.batches == [3]


async def test_a_full_queue_refuses_at_once() -> None:
    """The bound is kept; the refusal is counted; what was accepted is answered."""
    subject, observed = batcher(Inline(), queue=2)
    futures = [subject.submit(request(float(v)), 1) for v in range(2)]
    with pytest.raises(OverloadedError, match="Exceeds maximum queue size: 2"):
        subject.submit(request(9), 1)
    assert [rows(await answer(f)) for f in futures] == [[0], [1]]
    assert [type(e) for e in observed.failures] == [OverloadedError]


async def test_a_cancelled_request_is_not_run() -> None:
    """It is dropped from the queue and counted; its neighbours are answered."""
    executor = Inline()
    subject, observed = batcher(executor)
    first, second = (subject.submit(request(float(v)), 1) for v in (1, 2))
    first.cancel()
    assert rows(await answer(second)) == [2]
    assert executor.seen[0].tolist() == [[2]]
    assert observed.cancellations == 1
    assert observed.batches == [1]


async def test_a_cancelled_request_gives_its_place_in_the_queue_back() -> None:
    """Callers who left do not keep others out, even while the executor is busy."""
    executor = Elsewhere()
    subject, _ = batcher(executor, queue=2)
    running = subject.submit(request(0), 1)
    await spin()
    left = [subject.submit(request(float(v)), 1) for v in (1, 2)]
    for future in left:
        future.cancel()
    late = subject.submit(request(3), 1)
    executor.finish()
    await spin()
    executor.finish()
    assert rows(await answer(running)) == [0]
    assert rows(await answer(late)) == [3]


async def test_a_request_cancelled_while_it_runs_does_not_disturb_its_batch() -> None:
    """The others of the batch are answered."""
    executor = Elsewhere()
    subject, _ = batcher(executor)
    gone, there = (subject.submit(request(float(v)), 1) for v in (1, 2))
    await spin()
    gone.cancel()
    executor.finish()
    assert rows(await answer(there)) == [2]


async def test_a_request_whose_deadline_passed_is_not_run() -> None:
    """It is answered DeadlineExceeded before any execution."""
    executor = Elsewhere()
    subject, observed = batcher(executor)
    running = subject.submit(request(0), 1)
    await spin()
    late = subject.submit(request(1, deadline_s=asyncio.get_running_loop().time()), 1)
    executor.finish()
    with pytest.raises(DeadlineExceededError, match="Request timeout expired"):
        await answer(late)
    assert rows(await answer(running)) == [0]
    assert len(executor.seen) == 1
    assert [type(e) for e in observed.failures] == [DeadlineExceededError]


@pytest.mark.parametrize(
    ("ahead_s", "latest_s"), [((60.0, 90.0, 70.0), 90.0), ((60.0, None), None)]
)
async def test_a_batch_has_until_the_latest_deadline_of_its_requests(
    ahead_s: tuple[float | None, ...], latest_s: float | None
) -> None:
    """An executor that waits gives up when nobody waits any more, not when the first gives up."""
    batches: list[InferRequest] = []

    class Recording(Inline):
        def execute(self, batch: InferRequest) -> BatchResult:
            batches.append(batch)
            return super().execute(batch)

    now_s = asyncio.get_running_loop().time()
    policy = BatchPolicy(max_batch_size=8, max_queue_delay_s=0.0, max_queue_size=8)
    waiting = DynamicBatcher("m", Recording(), policy, Observed())
    deadlines = [None if s is None else now_s + s for s in ahead_s]
    futures = [
        waiting.submit(request(1.0)._replace(deadline_s=deadline_s), 1) for deadline_s in deadlines
    ]
    for future in futures:
        await answer(future)
    assert [batch.deadline_s for batch in batches] == [
        None if latest_s is None else now_s + latest_s
    ]


async def test_an_error_of_the_executor_reaches_every_request_of_its_batch_only() -> None:
    """The next batch is run as if nothing had been."""

    def run(inputs: Tensors) -> Tensors:
        if inputs["x"][0] < 0:
            raise UpstreamUnavailableError("no replica")
        return {"y": inputs["x"]}

    for executor in (Inline(run), Elsewhere(run)):
        subject, observed = batcher(executor, max_batch_size=2)
        bad = [subject.submit(request(-1), 1), subject.submit(request(-2), 1)]
        good = subject.submit(request(3), 1)
        await spin()
        while isinstance(executor, Elsewhere) and executor.waiting:
            executor.finish()
            await spin()
        for future in bad:
            with pytest.raises(UpstreamUnavailableError, match="no replica"):
                await answer(future)
        assert rows(await answer(good)) == [3]
        assert len(observed.failures) == 2


async def test_an_unforeseen_error_is_told_as_internal_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its text stays in the log, with its traceback."""

    def run(inputs: Tensors) -> Tensors:
        raise ZeroDivisionError("a secret")

    for executor in (Inline(run), Elsewhere(run)):
        subject, _ = batcher(executor)
        future = subject.submit(request(1), 1)
        with caplog.at_level(logging.ERROR):
            await spin()
            if isinstance(executor, Elsewhere):
                executor.finish()
            with pytest.raises(InternalError) as raised:
                await answer(future)
        assert "secret" not in str(raised.value)
        assert any(r.exc_info and "a secret" in str(r.exc_info[1]) for r in caplog.records)
        caplog.clear()


async def test_an_execution_that_is_cancelled_is_an_internal_error() -> None:
    """An executor that gives up does not leave its callers waiting."""
    executor = Elsewhere()
    subject, _ = batcher(executor)
    future = subject.submit(request(1), 1)
    await spin()
    executor.waiting.pop()[1].cancel()
    with pytest.raises(InternalError):
        await answer(future)


@pytest.mark.parametrize(
    "run",
    [
        lambda inputs: {"y": inputs["x"][:1]},
        lambda inputs: {"y": np.concatenate([inputs["x"], inputs["x"]])},
        lambda inputs: {"y": np.float64(1).reshape(())},
        lambda inputs: {},
    ],
    ids=["fewer rows", "more rows", "no rows", "no output"],
)
@pytest.mark.parametrize("executor_class", [Inline, Elsewhere])
async def test_an_executor_that_breaks_its_word_fails_its_batch(
    executor_class: type[Inline], run: Run
) -> None:
    """Outputs without one row a request row, or not there, are an error, never another's rows."""
    executor = executor_class(run)
    subject, _ = batcher(executor)
    futures = [subject.submit(request(float(v), outputs=("y",)), 1) for v in range(3)]
    await spin()
    if isinstance(executor, Elsewhere):
        executor.finish()
    for future in futures:
        with pytest.raises(InternalError):
            await answer(future)
    await asyncio.wait_for(subject.close(), DEADLINE_S)


async def test_inputs_that_cannot_be_put_together_fail_their_batch() -> None:
    """A failure before the execution is answered too, and the next request is run."""
    subject, _ = batcher(Inline())
    scalar = np.float64(1).reshape(())
    futures = [subject.submit(InferRequest("model", {"x": scalar}), 1) for _ in range(2)]
    for future in futures:
        with pytest.raises(InternalError):
            await answer(future)
    assert rows(await answer(subject.submit(request(5), 1))) == [5]


async def test_close_answers_what_was_accepted_and_refuses_what_comes() -> None:
    """An endless delay does not hold it up."""
    subject, _ = batcher(Inline(), delay_s=3600)
    future = subject.submit(request(1), 1)
    closing = asyncio.create_task(subject.close())
    await asyncio.sleep(0)
    with pytest.raises(NotReadyError, match="is not at ready state"):
        subject.submit(request(2), 1)
    await asyncio.wait_for(closing, DEADLINE_S)
    assert rows(await answer(future)) == [1]


async def test_close_of_an_idle_batcher_returns() -> None:
    """There is nothing to wait for, the second time neither."""
    subject, _ = batcher(Inline())
    await asyncio.wait_for(subject.close(), DEADLINE_S)
    await asyncio.wait_for(subject.close(), DEADLINE_S)


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_close_keeps_to_the_concurrency(concurrency: int) -> None:
    """No more batches are under way at once than the policy allows, while closing too."""
    executor = Elsewhere()
    subject, _ = batcher(executor, max_batch_size=1, concurrency=concurrency)
    futures = [subject.submit(request(float(v)), 1) for v in range(6)]
    await spin()
    closing = asyncio.create_task(subject.close())
    await spin()
    assert len(executor.waiting) == concurrency
    while executor.waiting:
        executor.finish()
        await spin()
    await asyncio.wait_for(closing, DEADLINE_S)
    assert executor.most_at_once == concurrency
    assert [rows(await answer(f)) for f in futures] == [[v] for v in range(6)]


@dataclass(frozen=True)
class Scenario:
    """A policy, an executor and what the callers do."""

    max_batch_size: int
    delay_s: float
    queue: int
    concurrency: int
    elsewhere: bool
    steps: tuple[tuple[str, int], ...]
    """What to do, and with how many rows or with which of the requests."""


_steps = st.lists(
    st.tuples(st.just("submit"), st.integers(1, 4))
    | st.tuples(st.just("poison"), st.integers(1, 4))
    | st.tuples(st.just("late"), st.integers(1, 4))
    | st.tuples(st.just("cancel"), st.integers(0, 30))
    | st.tuples(st.just("finish"), st.integers(0, 2))
    | st.tuples(st.just("spin"), st.just(0)),
    max_size=40,
).map(tuple)

_scenarios = st.builds(
    Scenario,
    max_batch_size=st.integers(4, 8),
    delay_s=st.sampled_from([0, 0.0005, 3600]),
    queue=st.integers(1, 12),
    concurrency=st.integers(1, 3),
    elsewhere=st.booleans(),
    steps=_steps,
)


@hypothesis_settings(max_examples=150)
@given(_scenarios)
def test_whatever_callers_do_each_gets_its_own_answer_once(scenario: Scenario) -> None:
    """Random sizes, delays, cancellations, deadlines and failures: the batcher's whole promise."""
    asyncio.run(_play(scenario))


class _Checking(Elsewhere):
    """Fails a batch that holds a poisoned row, doubles every value of any other."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(self._double)
        self._scenario = scenario

    def _double(self, inputs: Tensors) -> Tensors:
        if (inputs["x"] < 0).any():
            raise ValueError("poisoned")
        return {"y": inputs["x"] * 2}

    def execute(  # type: ignore[override]
        self, batch: InferRequest
    ) -> asyncio.Future[BatchResult] | BatchResult:
        """See `Executor`."""
        inputs = batch.inputs
        assert 1 <= len(inputs["x"]) <= self._scenario.max_batch_size
        if self._scenario.elsewhere:
            future = super().execute(batch)
            assert len(self.waiting) <= self._scenario.concurrency
            return future
        self.seen.append(inputs["x"])
        return BatchResult(self._double(inputs), "7")


async def _play(scenario: Scenario) -> None:
    executor = _Checking(scenario)
    subject, observed = batcher(
        executor,
        max_batch_size=scenario.max_batch_size,
        delay_s=scenario.delay_s,
        queue=scenario.queue,
        concurrency=scenario.concurrency,
    )
    accepted: list[tuple[list[float], asyncio.Future[InferResponse]]] = []
    refused, tag = 0, 0
    for action, number in scenario.steps:
        if action in ("submit", "poison", "late"):
            sign = -1.0 if action == "poison" else 1.0
            values = [sign * (tag + i + 1) for i in range(number)]
            tag += number
            deadline_s = 0.0 if action == "late" else None
            pending = subject.pending
            try:
                future = subject.submit(request(*values, deadline_s=deadline_s), number)
            except OverloadedError:
                refused += 1
                assert pending >= scenario.queue
            else:
                accepted.append((values, future))
            assert subject.pending <= scenario.queue
        elif action == "cancel" and accepted:
            accepted[number % len(accepted)][1].cancel()
        elif action == "finish" and executor.waiting:
            executor.finish(number % len(executor.waiting))
        else:
            await spin()
    closing = asyncio.create_task(subject.close())
    for _ in range(len(scenario.steps) + 5):
        await spin()
        while executor.waiting:
            executor.finish()
    await asyncio.wait_for(closing, DEADLINE_S)
    await _check_outcomes(accepted)
    _check_order(executor)
    done = observed.requests + len(observed.failures) + observed.cancellations
    assert done == len(accepted) + refused
    assert sum(observed.batches) <= tag


async def _check_outcomes(
    accepted: list[tuple[list[float], asyncio.Future[InferResponse]]],
) -> None:
    for values, future in accepted:
        assert future.done()
        with contextlib.suppress(asyncio.CancelledError, InternalError, DeadlineExceededError):
            response = future.result()
            assert rows(response) == [2 * value for value in values]


def _check_order(executor: _Checking) -> None:
    """Rows were run in the order of arrival, none twice."""
    run = [abs(v) for x in executor.seen for v in x.ravel().tolist()]
    assert run == sorted(set(run))
