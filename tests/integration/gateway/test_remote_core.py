"""The port over replicas: who is asked, who is asked again, and what is never asked twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from atril_common.core import (
    InferRequest,
    LoadOptions,
    ModelIndexEntry,
    RequestOptions,
    SequenceControl,
)
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LoadFailedError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)
from atril_gateway.remote import RemoteCore

from .fake_replica import FakeReplica, model_config, replicas, until

FULL = (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")


@asynccontextmanager
async def remote(
    *fakes: FakeReplica, timeout_s: float = 20.0, max_queue_size: int = 100
) -> AsyncIterator[RemoteCore]:
    """The adapter over replicas, each probed once."""
    core = RemoteCore(tuple(fake.address for fake in fakes), timeout_s, max_queue_size)
    await core.start()
    try:
        yield core
    finally:
        await core.close()


def request(
    value: float, sequence: SequenceControl | None = None, deadline_s: float | None = None
) -> InferRequest:
    """One row."""
    return InferRequest(
        "model",
        {"x": np.array([[value]], np.float32)},
        deadline_s=deadline_s,
        options=RequestOptions(sequence=sequence),
    )


async def ask(core: RemoteCore, asked: InferRequest) -> float:
    """The value of the one answer."""
    response = await core.infer(asked)
    return float(response.outputs["y"][0, 0])


def sequence_config() -> object:
    """A model with state."""
    config = model_config()
    config.sequence_batching.max_sequence_idle_microseconds = 60_000_000
    return config


# Unary requests


@pytest.mark.parametrize(
    "failure", [FULL, (grpc.StatusCode.UNAVAILABLE, "the server is shutting down")]
)
async def test_a_request_that_one_replica_refuses_is_answered_by_another(
    failure: tuple[grpc.StatusCode, str],
) -> None:
    """UNAVAILABLE costs one retry elsewhere."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await core.config("model")
        one.failures["ModelInfer"] = [failure]
        two.failures["ModelInfer"] = []
        values = [await ask(core, request(1)) for _ in range(4)]
        assert set(values) <= {101.0, 201.0}
        assert one.failures["ModelInfer"] == []


async def test_a_request_is_retried_once_only() -> None:
    """When both replicas refuse, the answer is the second one's; a third call does not happen."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await core.config("model")
        for fake in (one, two):
            fake.failures["ModelInfer"] = [FULL] * 5
        with pytest.raises(NotReadyError, match="Exceeds maximum queue size"):
            await core.infer(request(1))
        assert (len(one.inferred()), len(two.inferred())) == (1, 1)


async def test_a_replica_with_a_full_queue_is_still_ready() -> None:
    """One model's queue is no reason to take a replica, or the gateway, out of service."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        await core.config("model")
        one.failures["ModelInfer"] = [FULL]
        with pytest.raises(NotReadyError):
            await core.infer(request(1))
        assert await core.ready()
        assert await ask(core, request(1)) == 101.0


async def test_requests_under_way_to_a_replica_that_dies_are_answered_by_another() -> None:
    """A connection lost in the middle of a call costs a retry, not an error."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await core.config("model")
        one.gates["ModelInfer"] = asyncio.Event()
        answers = [asyncio.ensure_future(ask(core, request(i))) for i in range(40)]
        await until(lambda: one.under_way > 0, "a call under way to the first replica")
        await one.die()
        assert sorted(await asyncio.gather(*answers)) == [200.0 + i for i in range(40)]


async def test_an_answer_that_is_an_error_is_not_asked_for_again() -> None:
    """What the model refuses one replica, it would refuse the other."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await core.config("model")
        for fake in (one, two):
            fake.failures["ModelInfer"] = [(grpc.StatusCode.INTERNAL, "it broke")]
        with pytest.raises(InternalError, match="it broke"):
            await core.infer(request(1))
        assert len(one.inferred()) + len(two.inferred()) == 1


async def test_a_deadline_travels_to_the_replica() -> None:
    """DESIGN, failure behaviour: the replica is told how long the caller still waits."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        await core.config("model")
        deadline_s = asyncio.get_running_loop().time() + 7.0
        await core.infer(request(1, deadline_s=deadline_s))
        assert 0 < one.timeouts_s[-1] < 7.5  # of 20 without it; clocks differ a little


async def test_a_request_that_is_not_answered_in_time_is_told_so() -> None:
    """The deadline ends the wait, whatever the replica does."""
    async with replicas(model_config(), 1) as (one,), remote(one, timeout_s=0.5) as core:
        await core.config("model")
        one.gates["ModelInfer"] = asyncio.Event()
        with pytest.raises(DeadlineExceededError):
            await core.infer(request(1))
        await until(lambda: one.cancelled == 1, "the replica to be told")


async def test_a_request_that_comes_too_late_is_not_sent() -> None:
    """A deadline that has passed already costs no call."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        await core.config("model")
        with pytest.raises(DeadlineExceededError):
            await core.infer(request(1, deadline_s=asyncio.get_running_loop().time() - 1))
        assert one.inferred() == []


async def test_requests_that_wait_together_travel_together() -> None:
    """The hop is paid per batch; every caller gets its own rows back."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        await core.config("model")
        answers = await asyncio.gather(*(ask(core, request(i)) for i in range(16)))
        assert answers == [100.0 + i for i in range(16)]
        assert [m.inputs[0].shape[0] for m in one.inferred()] == [8, 8]


async def test_requests_with_other_options_do_not_share_a_call() -> None:
    """A priority counts for the request that has it, not for its neighbours."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        await core.config("model")
        urgent = request(1)._replace(options=RequestOptions(priority=1))
        await asyncio.gather(*(core.infer(r) for r in (request(0), urgent, urgent, request(3))))
        assert [m.inputs[0].shape[0] for m in one.inferred()] == [1, 2, 1]


async def test_a_full_queue_refuses_at_once() -> None:
    """E24: what waits here is bounded by the model's own limit, once for each replica."""
    config = model_config(max_batch_size=1)
    config.dynamic_batching.default_queue_policy.max_queue_size = 3
    async with replicas(config, 1) as (one,), remote(one) as core:
        await core.config("model")
        one.gates["ModelInfer"] = asyncio.Event()
        running = [core.infer(request(i)) for i in range(2)]
        await until(lambda: one.under_way == 2, "both calls to be under way")
        waiting = [core.infer(request(i)) for i in range(3)]
        with pytest.raises(OverloadedError, match="Exceeds maximum queue size"):
            core.infer(request(9))
        one.gates["ModelInfer"].set()
        await asyncio.gather(*running, *waiting)


# Replicas that come and go


async def test_calls_under_way_follow_the_addresses_not_the_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One name with two addresses is two replicas, each with as many calls as one alone."""
    async with replicas(model_config(max_batch_size=1)) as (one, two):
        both = {one.address, two.address}
        found = {one.address}

        async def resolve(target: str) -> set[str]:
            assert target == "headless:9001"
            return set(found)

        monkeypatch.setattr("atril_gateway.remote.replicas._addresses", resolve)
        monkeypatch.setattr("atril_gateway.remote.replicas.RESOLVE_EVERY", 1)
        core = RemoteCore(("headless:9001",), 20.0, 100)
        await core.start()
        try:
            await core.config("model")
            for fake in (one, two):
                fake.gates["ModelInfer"] = asyncio.Event()
            found.update(both)
            await until(lambda: len(core._replicas.ready) == 2, "both addresses")
            asked = [core.infer(request(i)) for i in range(20)]
            await until(lambda: one.under_way + two.under_way == 4, "two calls to each")
            assert (one.under_way, two.under_way) == (2, 2)
            for fake in (one, two):
                fake.gates["ModelInfer"].set()
            await asyncio.gather(*asked)
        finally:
            await core.close()


async def test_calls_to_an_address_that_is_gone_are_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name service forgets a replica as it begins to drain; what it runs is still answered."""
    async with replicas(model_config()) as (one, two):
        found = {one.address}

        async def resolve(target: str) -> set[str]:
            return set(found)

        monkeypatch.setattr("atril_gateway.remote.replicas._addresses", resolve)
        monkeypatch.setattr("atril_gateway.remote.replicas.RESOLVE_EVERY", 1)
        core = RemoteCore(("headless:9001",), 20.0, 100)
        await core.start()
        try:
            await core.config("model")
            one.gates["ModelInfer"] = asyncio.Event()
            answer = asyncio.ensure_future(ask(core, request(1)))
            await until(lambda: one.under_way == 1, "the call")
            found.clear()
            found.add(two.address)
            await until(
                lambda: [r.address for r in core._replicas.ready] == [two.address], "the other one"
            )
            assert await ask(core, request(2)) == 202.0
            one.gates["ModelInfer"].set()
            assert await answer == 101.0
        finally:
            await core.close()


async def test_a_replica_that_comes_back_is_used_again() -> None:
    """The same address, another process."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        await core.config("model")
        port = int(one.address.rpartition(":")[2])
        await one.die()
        with pytest.raises(UpstreamUnavailableError):
            await core.infer(request(1))
        assert not await core.ready()
        one.ready = True
        await one.start(port)
        async with asyncio.timeout(20):
            while not await core.ready():
                await asyncio.sleep(0.01)
        assert await ask(core, request(1)) == 101.0


# Sequences


START = SequenceControl(7, start=True)
STEP = SequenceControl(7)
END = SequenceControl(7, end=True)


async def test_a_sequence_stays_with_the_replica_that_started_it() -> None:
    """2.10: however busy it is; another sequence starts at the other one."""
    async with replicas(sequence_config()) as (one, two), remote(one, two) as core:
        first = [await ask(core, request(0, c)) for c in (START, STEP)]
        other = await ask(core, request(0, SequenceControl(8, start=True)))
        first += [await ask(core, request(0, c)) for c in (STEP, STEP, END)]
        assert len(set(first)) == 1
        assert {first[0], other} == {100.0, 200.0}


async def test_the_options_of_a_request_reach_the_replica() -> None:
    """2.10: the sequence, priority, time-out and parameters travel as the protocol's parameters."""
    async with replicas(sequence_config(), 1) as (one,), remote(one) as core:
        options = RequestOptions(3, 5000, SequenceControl("a", start=True), (), (("own", 1.5),))
        await core.infer(request(0)._replace(options=options))
        sent = one.inferred()[-1].parameters
        assert sent["sequence_id"].string_param == "a"
        assert sent["sequence_start"].bool_param
        assert sent["own"].double_param == 1.5
        assert {"priority", "timeout"} <= set(sent)


async def test_requests_of_a_sequence_are_never_put_together() -> None:
    """2.10: the requests of two sequences that wait together travel apart, in order."""
    async with replicas(sequence_config(), 1) as (one,), remote(one) as core:
        for sequence_id in (1, 2):
            await core.infer(request(0, SequenceControl(sequence_id, start=True)))
        await asyncio.gather(
            *(core.infer(request(i, SequenceControl(i % 2 + 1))) for i in range(8))
        )
        assert [m.inputs[0].shape[0] for m in one.inferred()] == [1] * 10


@pytest.mark.parametrize("before", [(), (START, END)], ids=["never", "ended"])
async def test_a_sequence_that_is_not_live_must_start(
    before: tuple[SequenceControl, ...],
) -> None:
    """E27: no replica is asked for a state that nobody holds."""
    async with replicas(sequence_config()) as (one, two), remote(one, two) as core:
        for control in before:
            await core.infer(request(0, control))
        await core.config("model")
        with pytest.raises(InvalidInputError, match="must specify the START flag on the first"):
            await core.infer(request(0, STEP))
        assert len(one.inferred()) + len(two.inferred()) == len(before)


async def test_a_sequence_whose_replica_died_is_lost_and_says_so() -> None:
    """The state was there and nowhere else: an error, never another replica's state."""
    async with replicas(sequence_config()) as (one, two), remote(one, two) as core:
        home, other = (one, two) if await ask(core, request(0, START)) == 100.0 else (two, one)
        await home.die()
        with pytest.raises(UpstreamUnavailableError, match=r"state of sequence 7 .* is lost"):
            await core.infer(request(0, STEP))
        with pytest.raises(InvalidInputError, match="START"):
            await core.infer(request(0, STEP))
        assert other.inferred() == []
        assert await ask(core, request(0, START)) == float(other.number)


async def test_a_sequence_that_is_refused_is_neither_lost_nor_asked_elsewhere() -> None:
    """A full queue at the replica that holds the state: 503, and the next try finds it."""
    async with replicas(sequence_config()) as (one, two), remote(one, two) as core:
        number = await ask(core, request(0, START))
        home, other = (one, two) if number == 100.0 else (two, one)
        home.failures["ModelInfer"] = [FULL]
        with pytest.raises(NotReadyError, match="Exceeds"):
            await core.infer(request(0, STEP))
        assert await ask(core, request(0, STEP)) == number
        assert other.inferred() == []


async def test_two_models_may_use_one_id() -> None:
    """2.10: an id is a model's own; only a model with state pins anything."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        assert await ask(core, request(1, STEP)) == 101.0


async def test_a_start_begins_a_sequence_anew() -> None:
    """2.10: the id is free again at once, wherever it lives then."""
    async with replicas(sequence_config()) as (one, two), remote(one, two) as core:
        for _ in range(3):
            number = await ask(core, request(0, START))
            assert await ask(core, request(0, STEP)) == number
        await core.infer(request(0, END))
        assert all(replica.sequences == 0 for replica in core._replicas.all)


# Streams


async def _streamed(core: RemoteCore, asked: InferRequest) -> list[float]:
    return [float(r.outputs["y"][0, 0]) async for r in core.stream(asked)]


def decoupled_config() -> object:
    """A model that answers any number of times."""
    config = model_config()
    config.model_transaction_policy.decoupled = True
    return config


async def test_a_stream_gives_every_response_of_one_replica() -> None:
    """2.8: by ModelStreamInfer; the empty last message is no response."""
    async with replicas(decoupled_config(), 1) as (one,), remote(one) as core:
        assert await _streamed(core, request(1)) == [101.0, 102.0, 103.0]
        assert one.metadata[-1]["triton_grpc_error"] == "true"


async def test_a_model_with_one_response_streams_it() -> None:
    """A stream of a model that is not decoupled is its answer, coalesced and retried as any."""
    async with replicas(model_config(), 1) as (one,), remote(one) as core:
        assert await _streamed(core, request(1)) == [101.0]
        assert len(one.inferred()) == 1


async def test_leaving_a_stream_tells_the_replica() -> None:
    """Closing the iterator cancels the call."""
    async with replicas(decoupled_config(), 1) as (one,), remote(one) as core:
        one.gates["ModelStreamInfer"] = asyncio.Event()
        responses = core.stream(request(1))
        assert (await anext(responses)).outputs["y"] == 101.0
        await until(lambda: one.under_way == 1, "the replica to go on")
        await responses.aclose()  # type: ignore[attr-defined]
        await until(lambda: one.cancelled == 1, "the replica to be told")


async def test_a_stream_is_not_begun_anew_elsewhere() -> None:
    """Half an answer cannot be taken back: a replica that dies ends the stream with an error."""
    async with replicas(decoupled_config()) as (one, two), remote(one, two) as core:
        await core.config("model")
        for fake in (one, two):
            fake.gates["ModelStreamInfer"] = asyncio.Event()
        responses = core.stream(request(1))
        first = float((await anext(responses)).outputs["y"][0, 0])
        home, other = (one, two) if first == 101.0 else (two, one)
        await until(lambda: home.under_way == 1, "the stream to be under way")
        await home.die()
        with pytest.raises(AtrilError):
            await anext(responses)
        assert all(method != "ModelStreamInfer" for method, _ in other.seen)


# What concerns every replica


async def test_statistics_are_summed_over_the_ready_replicas() -> None:
    """2.8: counts of both; a replica that is down has none."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        one.statistics.inference_count, two.statistics.inference_count = 5, 7
        (total,) = await core.statistics("model")
        assert total.inference_count == 12
        assert one.seen[-1][1].name == "model"
        await two.die()
        (left,) = await core.statistics()
        assert left.inference_count == 5


async def test_statistics_of_an_unknown_model_are_refused() -> None:
    """E05: when no replica has them, the answer is the replicas'."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        text = "requested model 'nothing' is not available"
        for fake in (one, two):
            fake.failures["ModelStatistics"] = [(grpc.StatusCode.INVALID_ARGUMENT, text)]
        with pytest.raises(InvalidInputError, match="not available"):
            await core.statistics("nothing")


async def test_the_index_is_merged() -> None:
    """2.6: a version READY on one replica only is READY, with the reason."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        two.entries = [("model", "1", "UNAVAILABLE", "no memory"), ("only", "1", "LOADING", "")]
        entries = await core.index()
        assert [(e.name, e.state) for e in entries] == [("model", "READY"), ("only", "LOADING")]
        assert f"{two.address}: UNAVAILABLE, no memory" in entries[0].reason
        assert f"{one.address}: not loaded" in entries[1].reason
        assert [e.name for e in await core.index(ready_only=True)] == ["model"]
        assert isinstance(entries[0], ModelIndexEntry)


async def test_a_load_reaches_every_replica_with_its_options() -> None:
    """2.6: configuration and files travel as parameters."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await core.load("model", LoadOptions('{"backend": "x"}', {"1/model.onnx": b"\x00\xff"}))
        for fake in (one, two):
            method, message = fake.seen[-1]
            assert (method, message.model_name) == ("RepositoryModelLoad", "model")
            assert message.parameters["config"].string_param == '{"backend": "x"}'
            assert message.parameters["file:1/model.onnx"].bytes_param == b"\x00\xff"


async def test_an_unload_reaches_every_replica_with_its_option() -> None:
    """2.6: so does `unload_dependents`."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await core.unload("model", unload_dependents=True)
        for fake in (one, two):
            assert not fake.loaded
            assert fake.seen[-1][1].parameters["unload_dependents"].bool_param


async def test_a_load_that_fails_on_one_replica_names_it() -> None:
    """All must succeed: the error has the address and the reason, and the others were asked."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        broken = (grpc.StatusCode.INTERNAL, "failed to load 'model': not ONNX")
        two.failures["RepositoryModelLoad"] = [broken]
        with pytest.raises(LoadFailedError) as failed:
            await core.load("model")
        assert str(failed.value) == (
            f"1 of 2 replicas failed: {two.address}: failed to load 'model': not ONNX"
        )
        assert one.seen[-1][0] == "RepositoryModelLoad"


async def test_a_load_names_the_replicas_that_are_down() -> None:
    """A replica that cannot be asked has not loaded the model."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        await two.die()
        with pytest.raises(UpstreamUnavailableError) as failed:
            await core.load("model")
        assert two.address in str(failed.value)
        assert "1 of 2 replicas failed" in str(failed.value)


async def test_a_load_that_is_not_allowed_says_so_once() -> None:
    """E28: the same answer of every replica is told once, with its kind."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        text = "explicit model load / unload is not allowed"
        for fake in (one, two):
            fake.failures["RepositoryModelLoad"] = [(grpc.StatusCode.UNAVAILABLE, text)]
        with pytest.raises(NotReadyError) as failed:
            await core.load("model")
        assert str(failed.value).count(text) == 1
        assert [len(f.seen) for f in (one, two)] == [1, 1]


async def test_an_unloaded_model_is_unknown_at_once() -> None:
    """2.6: what was known of it is not trusted for the rest of its time."""
    async with replicas(model_config()) as (one, two), remote(one, two) as core:
        assert await ask(core, request(1)) in (101.0, 201.0)
        await core.unload("model")
        with pytest.raises(NotFoundError):
            await core.metadata("model")
        with pytest.raises(NotFoundError):
            await core.infer(request(1))
        await core.load("model")
        assert (await core.metadata("model")).name == "model"


async def test_a_load_brings_the_new_contract_at_once() -> None:
    """2.6: the first request after it is checked against the new configuration."""
    async with replicas(model_config(max_batch_size=8), 1) as (one,), remote(one) as core:
        rows = InferRequest("model", {"x": np.ones((4, 1), np.float32)})
        await core.infer(rows)
        one.config = model_config(max_batch_size=2)
        await core.load("model")
        with pytest.raises(InvalidInputError, match="batch-size must be <= 2"):
            await core.infer(rows)


async def test_what_was_asked_before_a_load_is_not_kept_after_it() -> None:
    """An answer about the old model that arrives after the load is used once and not remembered."""
    async with replicas(model_config(max_batch_size=8), 1) as (one,), remote(one) as core:
        one.gates["ModelMetadata"] = asyncio.Event()
        early = asyncio.ensure_future(core.metadata("model"))
        await until(lambda: one.under_way == 1, "the question")
        gate = one.gates.pop("ModelMetadata")
        await core.load("model")
        one.config = model_config(max_batch_size=2)
        gate.set()
        await early
        assert (await core.config("model")).max_batch_size == 2


async def test_closing_answers_what_was_accepted() -> None:
    """Batches that wait behind calls under way are sent and answered before the channels close."""
    async with replicas(model_config(max_batch_size=1), 1) as (one,):
        async with remote(one) as core:
            await core.config("model")
            one.gates["ModelInfer"] = asyncio.Event()
            answers = [asyncio.ensure_future(ask(core, request(i))) for i in range(6)]
            await until(lambda: one.under_way == 2, "two calls")
            one.gates["ModelInfer"].set()
        assert await asyncio.gather(*answers) == [100.0 + i for i in range(6)]
