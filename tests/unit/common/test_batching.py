"""The batcher: no batch over its limits, every answer to its own caller, nothing lost."""

import asyncio
import logging

import numpy as np
import pytest

from atril_common.batching import BatchPolicy, BatchResult, Tensors
from atril_common.core import InferRequest, RequestOptions
from atril_common.errors import (
    DeadlineExceededError,
    InternalError,
    NotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)
from tests.support.batching import (
    DEADLINE_S,
    Elsewhere,
    Inline,
    Run,
    answer,
    batcher,
    batcher_of,
    request,
    rows,
    spin,
)


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


async def test_requests_of_unequal_options_share_a_batch_unless_they_are_handed_on() -> None:
    """`same_options`: the executor is given the options of one request, so all must have them."""
    other = RequestOptions(parameters=(("temperature", 2.0),))
    for same_options, batches in ((False, [4]), (True, [2, 1, 1])):
        policy = BatchPolicy(8, 0, 100, same_options=same_options)
        subject, observed = batcher_of(Inline(), policy)
        asked = [request(0), request(1), request(2, options=other), request(3)]
        futures = [subject.submit(r, 1) for r in asked]
        assert [rows(await answer(f)) for f in futures] == [[0], [1], [2], [3]]
        assert observed.batches == batches


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
    waiting, _ = batcher(Recording(), max_batch_size=8)
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
