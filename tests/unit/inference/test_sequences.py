"""Sequences over real models: each sees its own state, in order, until it ends or is idle."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import BatchPolicy, DynamicBatcher
from atril_common.core import InferRequest, InferResponse, RequestOptions, SequenceControl
from atril_common.errors import (
    InternalError,
    InvalidInputError,
    NotReadyError,
    OverloadedError,
)
from atril_common.tensors import TensorSpec
from atril_inference.engine import Engine
from atril_inference.sequence_config import SequencePlan, StatePair, sequence_plan
from atril_inference.sequences import SequenceScheduler
from tests.support import tiny_models
from tests.support.batching import Elsewhere, Observed, spin
from tests.support.engines import running_engine
from tests.support.repositories import controls_config, recurrences_config, write_model

Step = tuple[float, float]
"""What `two_recurrences` answers: y and w."""


def alone(values: Sequence[float]) -> list[Step]:
    """A sequence run by ONNX Runtime itself, the states carried by hand."""
    session = onnxruntime.InferenceSession(tiny_models.two_recurrences().SerializeToString())
    a = z = np.zeros((1, 1), np.float32)
    steps = []
    for value in values:
        feed = {"x": np.array([[value]], np.float32), "a": a, "z": z}
        y, w, z, a = session.run(["y", "w", "a_next", "z_next"], feed)
        steps.append((float(y[0, 0]), float(w[0, 0])))
    return steps


def ask(
    core: Engine, name: int | str, value: float, *, start: bool = False, end: bool = False
) -> asyncio.Future[InferResponse]:
    """One request of a sequence to `recurrences`."""
    options = RequestOptions(sequence=SequenceControl(name, start, end))
    x = np.array([[value]], np.float32)
    return core.infer(InferRequest("recurrences", {"x": x}, options=options))


def step_of(response: InferResponse) -> Step:
    """The answer of `recurrences`, which has no state in it."""
    assert tuple(response.outputs) == ("y", "w")
    return float(response.outputs["y"][0, 0]), float(response.outputs["w"][0, 0])


def write_recurrences(root: Path, config: ModelConfig | None = None) -> Path:
    """A repository of one model that keeps state."""
    write_model(root, config or recurrences_config(), {1: tiny_models.two_recurrences()})
    return root


async def test_interleaved_sequences_never_mix(tmp_path: Path) -> None:
    """2.10 sequence: each equals its run alone, and they did share batches."""
    rng = np.random.default_rng(0)
    values = {name: rng.integers(-9, 9, 12).tolist() for name in (1, 2, 3, 2**63, "one", "1")}
    async with running_engine(write_recurrences(tmp_path)) as engine:
        futures: dict[int | str, list[asyncio.Future[InferResponse]]] = {n: [] for n in values}
        last = len(values[1]) - 1
        for position in range(last + 1):
            for name, own in values.items():
                future = ask(engine, name, own[position], start=position == 0, end=position == last)
                futures[name].append(future)
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        answers = {n: [step_of(f) for f in await asyncio.gather(*fs)] for n, fs in futures.items()}
        (statistics,) = await engine.statistics("recurrences")
    assert answers == {name: alone(own) for name, own in values.items()}
    assert statistics.inference_count == 12 * len(values)
    assert statistics.execution_count < statistics.inference_count


async def test_a_start_begins_anew_and_an_end_forgets(tmp_path: Path) -> None:
    """2.10, E27: a sequence that ended, or never began, must be started."""
    async with running_engine(write_recurrences(tmp_path)) as engine:
        with pytest.raises(InvalidInputError, match="must specify the START flag"):
            ask(engine, 5, 1)
        assert step_of(await ask(engine, 5, 1, start=True)) == (1, 3)
        assert step_of(await ask(engine, 5, 1)) == (3, 6)
        assert step_of(await ask(engine, 5, 1, start=True)) == (1, 3)
        ending = ask(engine, 5, 1, end=True)
        with pytest.raises(InvalidInputError, match="must specify the START flag"):
            ask(engine, 5, 1)
        assert step_of(await ending) == (3, 6)
        assert step_of(await ask(engine, 5, 2, start=True, end=True)) == (2, 6)
        (statistics,) = await engine.statistics("recurrences")
    assert statistics.inference_stats.fail.count == 2


async def test_a_request_that_cannot_be_of_a_sequence_is_refused(tmp_path: Path) -> None:
    """2.10: a sequence id, one row, and none of the inputs that the server gives."""
    async with running_engine(write_recurrences(tmp_path)) as engine:
        x = np.ones((1, 1), np.float32)
        in_sequence = RequestOptions(sequence=SequenceControl(1, start=True))
        for request, reason in (
            (InferRequest("recurrences", {"x": x}), "sequence_id"),
            (
                InferRequest("recurrences", {"x": np.ones((2, 1), np.float32)}),
                "sequence_id",
            ),
            (
                InferRequest(
                    "recurrences", {"x": np.ones((2, 1), np.float32)}, options=in_sequence
                ),
                "batch-size 1",
            ),
            (InferRequest("recurrences", {"x": x, "a": x}, options=in_sequence), "'a'"),
            (
                InferRequest("recurrences", {"x": x}, outputs=("z_next",), options=in_sequence),
                "z_next",
            ),
        ):
            with pytest.raises(InvalidInputError, match=reason):
                await engine.infer(request)
        metadata = await engine.metadata("recurrences")
        assert [spec.name for spec in metadata.inputs] == ["x"]
        assert [spec.name for spec in metadata.outputs] == ["y", "w"]


async def test_controls_tell_the_model_where_it_is(tmp_path: Path) -> None:
    """2.11 `control_input`: each kind has the values that the configuration gives it."""
    write_model(tmp_path, controls_config(), {1: tiny_models.controls()})
    async with running_engine(tmp_path) as engine:
        told = []
        for start, end in ((True, False), (False, False), (False, True)):
            options = RequestOptions(sequence=SequenceControl(2**40, start, end))
            x = np.array([[10]], np.int32)
            response = await engine.infer(InferRequest("controls", {"x": x}, options=options))
            told.append({name: tensor.item() for name, tensor in response.outputs.items()})
        options = RequestOptions(sequence=SequenceControl("text", start=True))
        with pytest.raises(InvalidInputError, match="must be UINT64"):
            await engine.infer(InferRequest("controls", {"x": x}, options=options))
    names = ("start_told", "end_told", "ready_told", "id_told", "y")
    assert [tuple(answer[name] for name in names) for answer in told] == [
        (7, 0.0, True, 2**40, 11),
        (-7, 0.0, True, 2**40, 12),
        (-7, 0.5, True, 2**40, 13),
    ]


async def test_a_state_may_begin_with_what_a_file_holds(tmp_path: Path) -> None:
    """2.11 `initial_state`: raw values of one row, in the model's folder."""
    config = recurrences_config()
    initial = config.sequence_batching.state[0].initial_state[0]
    initial.data_file = "a.bin"
    folder = write_model(tmp_path, config, {1: tiny_models.two_recurrences()})
    (folder / "initial_state").mkdir()
    (folder / "initial_state" / "a.bin").write_bytes(np.array([50], np.float32).tobytes())
    async with running_engine(tmp_path) as engine:
        for name in (1, 2):
            assert step_of(await ask(engine, name, 1, start=True)) == (101, 3)


async def test_what_the_server_gives_is_not_completed(tmp_path: Path) -> None:
    """2.11: tensors that the configuration leaves out are the graph's, without the states."""
    config = recurrences_config()
    del config.input[:], config.output[:]
    async with running_engine(write_recurrences(tmp_path, config)) as engine:
        assert step_of(await ask(engine, 1, 1, start=True)) == (1, 3)
        metadata = await engine.metadata("recurrences")
    assert [spec.name for spec in metadata.inputs] == ["x"]


def _two_states(c: ModelConfig) -> None:
    c.sequence_batching.state[0].initial_state.add(data_type="TYPE_FP32", dims=[1])


def _no_such_input(c: ModelConfig) -> None:
    c.sequence_batching.state[0].input_name = "q"


def _no_such_output(c: ModelConfig) -> None:
    c.sequence_batching.state[1].output_name = "q"


def _other_type(c: ModelConfig) -> None:
    c.sequence_batching.state[0].data_type = "TYPE_INT64"  # type: ignore[assignment]


def _other_dims(c: ModelConfig) -> None:
    c.sequence_batching.state[0].dims[0] = 2


def _other_initial_dims(c: ModelConfig) -> None:
    c.sequence_batching.state[0].initial_state[0].dims[0] = 2


def _file_outside(c: ModelConfig) -> None:
    c.sequence_batching.state[0].initial_state[0].data_file = "../config.pbtxt"


def _twice(c: ModelConfig) -> None:
    c.sequence_batching.state[1].input_name = "a"


def _iterative(c: ModelConfig) -> None:
    c.sequence_batching.iterative_sequence = True


def _control(text: str) -> Any:
    def change(c: ModelConfig) -> None:
        del c.sequence_batching.state[1]
        declared = c.sequence_batching.control_input.add(name="z")
        text_format.Parse(text, declared.control.add())

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_two_states, "2 initial_state"),
        (_no_such_input, "no input 'q'"),
        (_no_such_output, "no output 'q'"),
        (_other_type, "INT64"),
        (_other_dims, r"\[-1, 2\]"),
        (_other_initial_dims, r"initial_state FP32 \[2\]"),
        (_file_outside, "not a file of the model"),
        (_twice, r"\['a'\] a second time"),
        (_iterative, "iterative_sequence"),
        (_control("kind: CONTROL_SEQUENCE_START"), "no values"),
        (_control("kind: CONTROL_SEQUENCE_START fp32_false_true: [ 1 ]"), "two values"),
        (_control("kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ]"), "INT32 in config"),
        (_control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32"), "FP32, but a sequence"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused(change: Any, reason: str, tmp_path: Path) -> None:
    """The model is not ready, and the reason names the state or the control."""
    config = recurrences_config()
    change(config)
    names = {"in": ("x", "a", "z"), "out": ("y", "w", "a_next", "z_next")}
    graph = {k: tuple(TensorSpec(n, "FP32", (-1, 1)) for n in v) for k, v in names.items()}
    with pytest.raises(NotReadyError, match=reason):
        sequence_plan(config, graph["in"], graph["out"], tmp_path)


async def test_a_reload_ends_the_sequences_and_answers_what_was_accepted(tmp_path: Path) -> None:
    """2.6: accepted steps are answered in order, though each waits for the one before it."""
    async with running_engine(write_recurrences(tmp_path)) as engine:
        futures = [ask(engine, 1, v, start=v == 1) for v in range(1, 6)]
        closing = asyncio.create_task(engine.close())
        answers = [step_of(f) for f in await asyncio.gather(*futures)]
        await closing
    assert answers == alone([1, 2, 3, 4, 5])


class Clock:
    """A clock that the test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s


class Stage:
    """A scheduler over an executor that sums: the state `s` is what came before, `y` the sum."""

    def __init__(
        self, *, idle_s: float = 60, most: int = 100, queue: int = 100, concurrency: int = 1
    ) -> None:
        self.clock = Clock()
        self.executor = Elsewhere(lambda i: {"y": i["s"] + i["x"], "s_next": i["s"] + i["x"]})
        zero = StatePair("s", "s_next", np.zeros((1, 1)))
        plan = SequencePlan((zero,), (), (), ("y",), idle_s, most)
        self.observed = Observed()
        policy = BatchPolicy(8, 0, 1000, concurrency)
        batcher = DynamicBatcher("m", self.executor, policy, self.observed)
        self.scheduler = SequenceScheduler("m", plan, batcher, self.observed, queue, self.clock)

    def ask(
        self, name: int, value: float, *, start: bool = False, end: bool = False
    ) -> asyncio.Future[InferResponse]:
        """One request of a sequence."""
        options = RequestOptions(sequence=SequenceControl(name, start, end))
        return self.scheduler.submit(
            InferRequest("m", {"x": np.array([[value]])}, options=options), 1
        )

    async def run(self) -> None:
        """Execute until nothing is under way."""
        await spin()
        while self.executor.waiting:
            self.executor.finish()
            await spin()


def total(future: asyncio.Future[InferResponse]) -> float:
    """The answer of a stage."""
    return float(future.result().outputs["y"].item())


async def test_an_idle_sequence_is_forgotten() -> None:
    """E27: its state is dropped when its idle time is over, not before."""
    stage = Stage(idle_s=10)
    stage.ask(1, 1, start=True)
    stage.ask(2, 5, start=True)
    await stage.run()
    stage.clock.now_s = 9
    used = stage.ask(2, 5)
    await stage.run()
    stage.clock.now_s = 10
    with pytest.raises(InvalidInputError, match="START flag"):
        stage.ask(1, 1)
    assert total(used) == 10
    assert stage.scheduler.live == 1
    stage.clock.now_s = 18.5
    used = stage.ask(2, 1)
    await stage.run()
    assert total(used) == 11


async def test_a_sequence_that_waits_for_the_model_is_not_idle() -> None:
    """The idle time begins with the answer, however long that took."""
    stage = Stage(idle_s=10)
    first = stage.ask(1, 1, start=True)
    await spin()
    stage.clock.now_s = 100
    second = stage.ask(1, 1)
    await stage.run()
    stage.clock.now_s = 105
    third = stage.ask(1, 1)
    await stage.run()
    assert [total(f) for f in (first, second, third)] == [1, 2, 3]


async def test_one_request_of_a_sequence_runs_at_a_time() -> None:
    """Whatever the concurrency, the next waits for the state; other sequences do not."""
    stage = Stage(concurrency=4)
    futures = [stage.ask(1, v, start=v == 0) for v in range(3)]
    other = stage.ask(2, 7, start=True)
    await spin()
    assert [x.ravel().tolist() for x in stage.executor.seen] == [[0, 7]]
    await stage.run()
    assert [total(f) for f in futures] == [0, 1, 3]
    assert total(other) == 7


async def test_a_request_that_fails_or_is_cancelled_leaves_the_state_as_it_was() -> None:
    """The next request sees what the last good one left."""
    stage = Stage()
    good = stage.ask(1, 1, start=True)
    await stage.run()
    bad = stage.ask(1, 100)
    await spin()
    stage.executor.waiting.pop()[1].set_exception(InternalError("broken"))
    dropped, left, last = stage.ask(1, 200), stage.ask(1, 300), stage.ask(1, 2)
    left.cancel()
    await spin()
    dropped.cancel()
    await stage.run()
    assert total(good) == 1
    assert isinstance(bad.exception(), InternalError)
    assert total(last) == 3


async def test_the_number_of_sequences_and_of_waiting_requests_is_bounded() -> None:
    """E24: one more is refused at once and counted; a place that is free again is given."""
    stage = Stage(most=2, queue=2)
    stage.ask(1, 1, start=True)
    stage.ask(2, 1, start=True)
    with pytest.raises(OverloadedError, match="2 sequences"):
        stage.ask(3, 1, start=True)
    stage.ask(1, 1, end=True)
    stage.ask(2, 1)
    with pytest.raises(OverloadedError, match="Exceeds maximum queue size"):
        stage.ask(2, 1)
    await stage.run()
    stage.ask(3, 1, start=True)
    await stage.run()
    assert len(stage.observed.failures) == 2


_moves = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.booleans())
    | st.sampled_from(["finish", "spin", "cancel", "fail"]),
    max_size=60,
)


@hypothesis_settings(max_examples=150)
@given(_moves, st.integers(1, 3))
def test_whatever_comes_each_sequence_sums_its_own(
    moves: list[tuple[int, bool, bool] | str], concurrency: int
) -> None:
    """Random interleavings, starts, ends, cancellations and failures: no state leaks."""
    asyncio.run(_play(moves, concurrency))


class _Lives:
    """What was asked of each life of each sequence."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lives: dict[int, object] = {}
        self.asked: list[tuple[object, float, asyncio.Future[InferResponse]]] = []

    def ask(self, name: int, value: float, *, start: bool, end: bool) -> None:
        """Ask, or be refused where nothing lives."""
        if start:
            self._lives[name] = object()
        life = self._lives.get(name)
        try:
            future = self._stage.ask(name, value, start=start, end=end)
        except InvalidInputError:
            assert life is None
            return
        assert life is not None
        self.asked.append((life, value, future))
        if end:
            del self._lives[name]

    def check(self) -> None:
        """Each answer is the sum of what its own life was told in the good requests so far."""
        sums: dict[object, float] = {}
        for life, value, future in self.asked:
            assert future.done()
            if not future.cancelled() and future.exception() is None:
                sums[life] = sums.get(life, 0) + value
                assert total(future) == sums[life]


async def _play(moves: list[tuple[int, bool, bool] | str], concurrency: int) -> None:
    stage = Stage(concurrency=concurrency)
    lives = _Lives(stage)
    for position, move in enumerate(moves):
        if isinstance(move, tuple):
            name, start, end = move
            lives.ask(name, float(2**position % 1_000_003), start=start, end=end)
        elif move == "finish" and stage.executor.waiting:
            stage.executor.finish()
        elif move == "fail" and stage.executor.waiting:
            stage.executor.waiting.pop()[1].set_exception(InternalError("broken"))
        elif move == "cancel" and lives.asked:
            lives.asked[position % len(lives.asked)][2].cancel()
        else:
            await spin()
    closing = asyncio.create_task(stage.scheduler.close())
    for _ in moves:
        await stage.run()
    await asyncio.wait_for(closing, 5)
    lives.check()
