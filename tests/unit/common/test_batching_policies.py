"""The batcher's queues: priorities, time-outs, preferred sizes, order; and its whole promise."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from atril_common.batching import (
    BatchPolicy,
    BatchResult,
    Departure,
    DynamicBatcher,
    QueuePolicy,
    Tensors,
    TimeoutAction,
)
from atril_common.batching.batcher import preferred_prefix
from atril_common.core import InferRequest, InferResponse, RequestOptions
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    InternalError,
    OverloadedError,
    QueueTimeoutError,
)
from tests.support.batching import (
    DEADLINE_S,
    Elsewhere,
    Inline,
    Observed,
    answer,
    batcher_of,
    request,
    rows,
    spin,
)

LONG_US = 3_600_000_000
SHORT_US = 1_000


def priority(level: int) -> RequestOptions:
    """A request's priority."""
    return RequestOptions(priority=level)


async def run_all(executor: Elsewhere) -> list[float]:
    """End executions until none is under way; the values in the order in which they were run."""
    await spin()
    while executor.waiting:
        executor.finish()
        await spin()
    return [value for x in executor.seen for value in x.ravel().tolist()]


async def test_a_higher_priority_is_run_first_and_each_level_in_order() -> None:
    """2.10: 1 is highest; 0, and a level that is not there, are the default level."""
    executor = Elsewhere()
    policy = BatchPolicy(0, 0, 100, levels=(QueuePolicy(),) * 3, default_level=2)
    subject, _ = batcher_of(executor, policy)
    busy = subject.submit(request(99), 1)
    await spin()
    asked = [(3, 30), (0, 20), (1, 10), (2, 21), (3, 31), (9, 22), (1, 11)]
    futures = [subject.submit(request(v, options=priority(p)), 1) for p, v in asked]
    assert await run_all(executor) == [99, 10, 11, 20, 21, 22, 30, 31]
    assert [rows(await answer(f)) for f in [busy, *futures]] == [[99]] + [[v] for _, v in asked]


async def test_a_batch_is_filled_from_the_levels_in_their_order() -> None:
    """A batch of urgent requests takes others along while there is room."""
    executor = Elsewhere()
    subject, observed = batcher_of(executor, BatchPolicy(3, 0, 100, levels=(QueuePolicy(),) * 2))
    subject.submit(request(99), 1)
    await spin()
    for level, value in ((2, 20), (2, 21), (1, 10), (2, 22)):
        subject.submit(request(value, options=priority(level)), 1)
    assert await run_all(executor) == [99, 10, 20, 21, 22]
    assert observed.batches == [1, 3, 1]


async def test_a_level_has_its_own_bound_within_the_bound_of_all() -> None:
    """E24: a full level refuses, the others still have room, until all of it is full."""
    levels = (QueuePolicy(max_queue_size=1), QueuePolicy(max_queue_size=9))
    subject, observed = batcher_of(Elsewhere(), BatchPolicy(0, 0, 3, levels=levels))
    subject.submit(request(0, options=priority(1)), 1)
    with pytest.raises(OverloadedError, match="Exceeds maximum queue size: 1 "):
        subject.submit(request(1, options=priority(1)), 1)
    for value in (2, 3):
        subject.submit(request(value, options=priority(2)), 1)
    with pytest.raises(OverloadedError, match="Exceeds maximum queue size: 3 "):
        subject.submit(request(4, options=priority(2)), 1)
    assert len(observed.failures) == 2
    assert subject.pending == 3


@pytest.mark.parametrize(
    ("policy", "timeout_us"),
    [
        (QueuePolicy(timeout_us=SHORT_US), 0),
        (QueuePolicy(timeout_us=SHORT_US), LONG_US),
        (QueuePolicy(timeout_us=SHORT_US, allow_timeout_override=True), LONG_US),
        (QueuePolicy(timeout_us=LONG_US, allow_timeout_override=True), SHORT_US),
        (QueuePolicy(allow_timeout_override=True), SHORT_US),
    ],
    ids=["the policy's", "not overridden", "not longer", "shorter", "where there was none"],
)
async def test_a_late_request_is_answered_though_the_model_is_busy(
    policy: QueuePolicy, timeout_us: int
) -> None:
    """E25: the answer comes when the time is up, not when an execution ends."""
    executor = Elsewhere()
    subject, observed = batcher_of(executor, BatchPolicy(4, 0, 100, levels=(policy,)))
    busy = subject.submit(request(0), 1)
    await spin()
    options = RequestOptions(timeout_us=timeout_us)
    late = subject.submit(request(1, options=options), 1)
    with pytest.raises(QueueTimeoutError, match="Request timeout expired"):
        await answer(late)
    assert len(executor.waiting) == 1, "the model was not busy"
    assert subject.pending == 0
    assert [type(e) for e in observed.failures] == [QueueTimeoutError]
    assert await run_all(executor) == [0]
    assert rows(await answer(busy)) == [0]


@pytest.mark.parametrize(
    ("policy", "timeout_us"),
    [(QueuePolicy(), SHORT_US), (QueuePolicy(timeout_us=LONG_US), SHORT_US)],
)
async def test_a_time_out_that_may_not_be_set_is_not_heard(
    policy: QueuePolicy, timeout_us: int
) -> None:
    """2.10: `timeout` counts only where the configuration allows it."""
    executor = Elsewhere()
    subject, _ = batcher_of(executor, BatchPolicy(1, 0, 100, levels=(policy,)))
    subject.submit(request(0), 1)
    patient = subject.submit(request(1, options=RequestOptions(timeout_us=timeout_us)), 1)
    await asyncio.sleep(4 * SHORT_US / 1e6)
    assert not patient.done()
    await run_all(executor)
    assert rows(await answer(patient)) == [1]


async def test_a_deadline_is_answered_though_the_model_is_busy() -> None:
    """The caller is told when its deadline passes, whatever the queue policy."""
    executor = Elsewhere()
    level = QueuePolicy(timeout_us=LONG_US, timeout_action=TimeoutAction.DELAY)
    subject, _ = batcher_of(executor, BatchPolicy(4, 0, 100, levels=(level,)))
    subject.submit(request(0), 1)
    await spin()
    deadline_s = asyncio.get_running_loop().time() + 0.002
    with pytest.raises(DeadlineExceededError):
        await answer(subject.submit(request(1, deadline_s=deadline_s), 1))
    assert await run_all(executor) == [0]


async def test_a_delayed_request_is_run_after_those_in_time_of_its_level_only() -> None:
    """DELAY: late requests let the others of their level pass, not those of lower priority."""
    executor = Elsewhere()
    late = QueuePolicy(timeout_us=SHORT_US, timeout_action=TimeoutAction.DELAY)
    subject, observed = batcher_of(executor, BatchPolicy(0, 0, 100, levels=(late, QueuePolicy())))
    subject.submit(request(99), 1)
    await spin()
    delayed = [subject.submit(request(v, options=priority(1)), 1) for v in (10, 11)]
    await asyncio.sleep(4 * SHORT_US / 1e6)  # a later timer of the same loop
    lower = subject.submit(request(20, options=priority(2)), 1)
    executor.finish()  # what runs next is chosen before the request below can be late
    fresh = subject.submit(request(12, options=priority(1)), 1)
    assert await run_all(executor) == [99, 12, 10, 11, 20]
    assert [rows(await answer(f)) for f in [*delayed, lower, fresh]] == [[10], [11], [20], [12]]
    assert observed.failures == []


async def test_a_delayed_request_keeps_its_deadline() -> None:
    """A caller that gives up is answered from among the delayed, too."""
    executor = Elsewhere()
    late = QueuePolicy(timeout_us=SHORT_US, timeout_action=TimeoutAction.DELAY)
    subject, _ = batcher_of(executor, BatchPolicy(0, 0, 100, levels=(late,)))
    subject.submit(request(99), 1)
    await spin()
    deadline_s = asyncio.get_running_loop().time() + 10 * SHORT_US / 1e6
    with pytest.raises(DeadlineExceededError):
        await answer(subject.submit(request(1, deadline_s=deadline_s), 1))
    assert await run_all(executor) == [99]


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([1, 1, 1], 0),
        ([1, 1, 1, 1], 4),
        ([1, 1, 1, 1, 1], 4),
        ([3, 1, 4], 3),
        ([3, 3], 0),
        ([3, 3, 3], 2),
        ([9], 0),
        ([9, 1], 1),
        ([4, 5], 1),
    ],
)
def test_the_best_preferred_batch_is_the_longest(sizes: list[int], count: int) -> None:
    """Preferred sizes 4 and 8; where none is met, what does not outgrow the largest."""
    assert preferred_prefix(sizes, {4, 8}) == count


async def test_a_preferred_batch_leaves_at_once_and_the_rest_waits() -> None:
    """2.11: a preferred size does not wait for the delay; less than one does."""
    executor = Inline()
    policy = BatchPolicy(8, 3600, 100, preferred_batch_sizes=frozenset({2, 4}))
    subject, observed = batcher_of(executor, policy)
    futures = [subject.submit(request(v), 1) for v in range(5)]
    assert [rows(await answer(f)) for f in futures[:4]] == [[0], [1], [2], [3]]
    assert observed.departures == [Departure.PREFERRED]
    await spin()
    assert not futures[4].done()
    assert subject.pending == 1
    await asyncio.wait_for(subject.close(), DEADLINE_S)
    assert rows(await answer(futures[4])) == [4]


async def test_a_batch_that_cannot_grow_does_not_wait() -> None:
    """Another shape behind it, or no room for the next: waiting would bring nothing."""
    subject, observed = batcher_of(Inline(), BatchPolicy(4, 3600, 100))
    wide = InferRequest("model", {"x": request(1, 2).inputs["x"].reshape(1, 2)})
    first, _ = subject.submit(request(1), 1), subject.submit(wide, 1)
    assert rows(await answer(first)) == [1]
    narrow = [subject.submit(request(1, 2), 2), subject.submit(request(3, 4, 5), 3)]
    assert rows(await answer(narrow[0])) == [1, 2]
    assert observed.departures == [Departure.SHAPE, Departure.SHAPE, Departure.FULL]
    assert subject.pending == 1
    await asyncio.wait_for(subject.close(), DEADLINE_S)
    assert observed.departures[3:] == [Departure.DELAY]


@pytest.mark.parametrize("preserve_ordering", [True, False])
async def test_answers_keep_the_order_of_arrival_if_asked_to(*, preserve_ordering: bool) -> None:
    """2.11 `preserve_ordering`: what is computed first waits for what came first."""
    executor = Elsewhere()
    policy = BatchPolicy(1, 0, 100, concurrency=3, preserve_ordering=preserve_ordering)
    subject, observed = batcher_of(executor, policy)
    futures = [subject.submit(request(v), 1) for v in range(3)]
    await spin()
    executor.finish(2)
    executor.finish(1)
    await spin()
    assert [f.done() for f in futures] == [False, not preserve_ordering, not preserve_ordering]
    closing = asyncio.create_task(subject.close())
    executor.finish(0)
    await asyncio.wait_for(closing, DEADLINE_S)
    assert [rows(await answer(f)) for f in futures] == [[0], [1], [2]]
    assert observed.requests == 3


@dataclass(frozen=True)
class Scenario:
    """A policy, an executor and what the callers do."""

    policy: BatchPolicy
    elsewhere: bool
    steps: tuple[tuple[str, int, int], ...]
    """What to do; with how many rows or with which of the requests; with which priority."""


_levels = st.lists(
    st.builds(
        QueuePolicy,
        max_queue_size=st.sampled_from([0, 3]),
        timeout_us=st.sampled_from([0, 0, 1, 300, LONG_US]),
        allow_timeout_override=st.booleans(),
        timeout_action=st.sampled_from(TimeoutAction),
    ),
    min_size=1,
    max_size=3,
).map(tuple)

_policies = st.builds(
    BatchPolicy,
    max_batch_size=st.integers(4, 8),
    max_queue_delay_s=st.sampled_from([0, 0.0005, 3600]),
    max_queue_size=st.integers(1, 12),
    concurrency=st.integers(1, 3),
    same_options=st.booleans(),
    preferred_batch_sizes=st.frozensets(st.integers(1, 4), max_size=2),
    preserve_ordering=st.booleans(),
    levels=_levels,
    default_level=st.just(1),
)

_actions = st.sampled_from(["submit", "submit", "submit", "poison", "late", "hurried"])

_steps = st.lists(
    st.tuples(_actions, st.integers(1, 4), st.integers(0, 4))
    | st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0))
    | st.tuples(st.just("finish"), st.integers(0, 2), st.just(0))
    | st.tuples(st.sampled_from(["spin", "nap"]), st.just(0), st.just(0)),
    max_size=40,
).map(tuple)


@hypothesis_settings(max_examples=300)
@given(st.builds(Scenario, policy=_policies, elsewhere=st.booleans(), steps=_steps))
def test_whatever_callers_do_each_gets_its_own_answer_once(scenario: Scenario) -> None:
    """Random sizes, delays, priorities, time-outs, cancellations, failures: the whole promise."""
    asyncio.run(_Play(scenario).play())


class _Checking(Elsewhere):
    """Fails a batch that holds a poisoned row, doubles every value of any other."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(self._double)
        self._policy = scenario.policy
        self._elsewhere = scenario.elsewhere

    def _double(self, inputs: Tensors) -> Tensors:
        if (inputs["x"] < 0).any():
            raise ValueError("poisoned")
        return {"y": inputs["x"] * 2}

    def execute(  # type: ignore[override]
        self, batch: InferRequest
    ) -> asyncio.Future[BatchResult] | BatchResult:
        """See `Executor`."""
        inputs = batch.inputs
        assert 1 <= len(inputs["x"]) <= self._policy.max_batch_size
        if self._elsewhere:
            future = super().execute(batch)
            assert len(self.waiting) <= self._policy.concurrency
            return future
        self.seen.append(inputs["x"])
        return BatchResult(self._double(inputs), "7")


@dataclass
class _Asked:
    """A request that was accepted."""

    values: list[float]
    level: int
    future: asyncio.Future[InferResponse]


@dataclass
class _Play:
    """Plays a scenario and checks what came of it."""

    scenario: Scenario
    accepted: list[_Asked] = field(default_factory=list)
    refused: int = 0
    tag: int = 0
    answered: list[float] = field(default_factory=list)

    async def play(self) -> None:
        """Act, close, check."""
        executor = _Checking(self.scenario)
        subject, observed = batcher_of(executor, self.scenario.policy)
        for action, number, level in self.scenario.steps:
            if action == "cancel" and self.accepted:
                self.accepted[number % len(self.accepted)].future.cancel()
            elif action == "finish" and executor.waiting:
                executor.finish(number % len(executor.waiting))
            elif action in ("submit", "poison", "late", "hurried"):
                self.submit(subject, action, number, level)
            elif action == "nap":
                await asyncio.sleep(0.0004)
            else:
                await spin()
        closing = asyncio.create_task(subject.close())
        for _ in range(len(self.scenario.steps) + 5):
            await spin()
            while executor.waiting:
                executor.finish()
        await asyncio.wait_for(closing, DEADLINE_S)
        await spin()
        assert subject.pending == 0
        self.check_outcomes()
        self.check_order(executor)
        self.check_counts(observed)

    def submit(self, subject: DynamicBatcher, action: str, number: int, level: int) -> None:
        """Ask, and note what was asked."""
        policy = self.scenario.policy
        sign = -1.0 if action == "poison" else 1.0
        values = [sign * (self.tag + i + 1) for i in range(number)]
        self.tag += number
        options = RequestOptions(priority=level, timeout_us=200 if action == "hurried" else 0)
        asked = request(*values, deadline_s=0.0 if action == "late" else None, options=options)
        served = level if 0 < level <= len(policy.levels) else policy.default_level
        pending = subject.pending
        try:
            future = subject.submit(asked, number)
        except OverloadedError:
            self.refused += 1
            assert pending >= min(policy.max_queue_size, 3)
        else:
            self.accepted.append(_Asked(values, served, future))
            future.add_done_callback(lambda done: self.note(values, done))
        assert subject.pending <= policy.max_queue_size

    def note(self, values: list[float], done: asyncio.Future[InferResponse]) -> None:
        """Remember the order of the answers of requests that were run."""
        if not done.cancelled() and done.exception() is None:
            self.answered += values

    def check_outcomes(self) -> None:
        """Every caller has its own answer, or a reason."""
        for asked in self.accepted:
            assert asked.future.done()
            if asked.future.cancelled():
                continue
            error = asked.future.exception()
            if error is None:
                assert rows(asked.future.result()) == [2 * value for value in asked.values]
            else:
                assert isinstance(error, DeadlineExceededError | QueueTimeoutError | InternalError)

    def check_order(self, executor: _Checking) -> None:
        """Rows were run once; in the order of arrival within a level; and answered in order."""
        run = [abs(v) for x in executor.seen for v in x.ravel().tolist()]
        assert len(run) == len(set(run))
        policy = self.scenario.policy
        for number, level in enumerate(policy.levels, 1):
            may_delay = level.timeout_us or level.allow_timeout_override
            if may_delay and level.timeout_action is TimeoutAction.DELAY:
                continue
            members = {abs(v) for a in self.accepted if a.level == number for v in a.values}
            mine = [value for value in run if value in members]
            assert mine == sorted(mine)
        if policy.preserve_ordering:
            assert self.answered == [value for value in run if value in set(self.answered)]

    def check_counts(self, observed: Observed) -> None:
        """Nothing is lost or counted twice."""
        done = observed.requests + len(observed.failures) + observed.cancellations
        assert done == len(self.accepted) + self.refused
        assert sum(observed.batches) <= self.tag
        assert len(observed.departures) >= len(observed.batches)
        assert all(isinstance(error, AtrilError) for error in observed.failures)
