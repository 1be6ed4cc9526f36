"""The engine over good, broken and mismatched repositories."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import InternalError, NotFoundError, NotReadyError, OverloadedError
from atril_inference.engine import Engine
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

MODEL = tiny_models.matmul()
CPU = SessionOptions(device="cpu", intra_op_threads=1)
DEADLINE_S = 20.0


def config(name: str = "m") -> ModelConfig:
    """A configuration that fits `matmul`."""
    return config_of(name, MODEL, max_batch_size=8, queue_delay_us=0)


@asynccontextmanager
async def started(
    root: Path, options: SessionOptions = CPU, queue: int = 64
) -> AsyncIterator[Engine]:
    """An engine that has loaded a repository."""
    engine = Engine(LocalRepository(root), options, queue)
    await engine.start()
    yield engine
    await asyncio.wait_for(engine.close(), DEADLINE_S)


async def reason_of(root: Path, options: SessionOptions = CPU, version: str = "1") -> str:
    """Why version 1 of `m` is unavailable; everything that follows from it is checked."""
    write_model(root, config("good"), {1: MODEL})
    async with started(root, options) as engine:
        entry = next(e for e in await engine.index() if (e.name, e.version) == ("m", version))
        assert entry.state == "UNAVAILABLE"
        assert not await engine.ready()
        if version:
            assert not await engine.model_ready("m")
            with pytest.raises(NotReadyError, match="is not at ready state"):
                await engine.metadata("m")
            with pytest.raises(NotReadyError) as raised:
                engine.infer(InferRequest("m", {}))
            assert entry.reason in str(raised.value)
        if options is CPU:
            assert await engine.model_ready("good"), "a broken model stopped a good one"
        return entry.reason


async def test_a_good_repository_is_ready_and_answers(tmp_path: Path) -> None:
    """Load, warm up, answer."""
    write_model(tmp_path, config(), {1: MODEL})
    async with started(tmp_path) as engine:
        assert await engine.ready()
        x = np.ones((2, 4), np.float32)
        response: InferResponse = await engine.infer(InferRequest("m", {"x": x}))
        assert np.array_equal(response.outputs["y"], x @ tiny_models.WEIGHTS)


async def test_an_engine_is_not_ready_before_it_has_loaded(tmp_path: Path) -> None:
    """2.7: ready once loaded, not before."""
    write_model(tmp_path, config(), {1: MODEL})
    engine = Engine(LocalRepository(tmp_path), CPU, 64)
    assert not await engine.ready()
    await engine.start()
    assert await engine.ready()
    await engine.close()


@pytest.mark.parametrize("content", [b"", b"not onnx", MODEL.SerializeToString()[:-20]])
async def test_a_corrupt_model_is_unavailable_with_the_reason(
    tmp_path: Path, content: bytes
) -> None:
    """2.6: UNAVAILABLE, the reason names the file."""
    write_model(tmp_path, config(), {1: content})
    assert "model.onnx" in await reason_of(tmp_path)


async def test_a_version_without_a_model_is_unavailable(tmp_path: Path) -> None:
    """2.6: the reason names the version and the file that is missing."""
    write_model(tmp_path, config(), {1: None})
    reason = await reason_of(tmp_path)
    assert "version 1" in reason
    assert "model.onnx" in reason


async def test_a_configuration_of_another_model_is_refused(tmp_path: Path) -> None:
    """2.6: the reason has both names."""
    folder = write_model(tmp_path, config(), {1: MODEL})
    (folder / "config.pbtxt").write_text('name: "other"')
    reason = await reason_of(tmp_path, version="")
    assert "'other'" in reason
    assert "'m'" in reason


@pytest.mark.parametrize("text", ["{", "name: 7", 'nothing: "x"', 'name: "m" max_batch_size: "x"'])
async def test_a_malformed_configuration_is_refused(tmp_path: Path, text: str) -> None:
    """2.6: the reason says where it is malformed."""
    folder = write_model(tmp_path, config(), {1: MODEL})
    (folder / "config.pbtxt").write_text(text)
    assert "config.pbtxt" in await reason_of(tmp_path, version="")


async def test_a_configuration_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """2.6: bytes that are not UTF-8."""
    folder = write_model(tmp_path, config(), {1: MODEL})
    (folder / "config.pbtxt").write_bytes(b"\xff\xfe")
    assert "config.pbtxt" in await reason_of(tmp_path, version="")


def _rename_input(c: ModelConfig) -> None:
    c.input[0].name = "other"


def _rename_output(c: ModelConfig) -> None:
    c.output[0].name = "other"


def _surplus_input(c: ModelConfig) -> None:
    c.input.add(name="surplus", data_type=model_config_pb2.TYPE_FP32, dims=[1])


def _other_dims(c: ModelConfig) -> None:
    c.input[0].dims[:] = [5]


def _other_rank(c: ModelConfig) -> None:
    c.input[0].dims[:] = [4, 1]


def _wider_dims(c: ModelConfig) -> None:
    c.input[0].dims[:] = [-1]


def _other_datatype(c: ModelConfig) -> None:
    c.input[0].data_type = model_config_pb2.TYPE_INT64


def _no_datatype(c: ModelConfig) -> None:
    c.output[0].data_type = model_config_pb2.TYPE_INVALID


def _unknown_backend(c: ModelConfig) -> None:
    c.backend = "tensorrt"


def _unknown_platform(c: ModelConfig) -> None:
    c.platform = "pytorch_libtorch"


def _no_batching(c: ModelConfig) -> None:
    c.max_batch_size = 0


def _negative_batch(c: ModelConfig) -> None:
    c.max_batch_size = -1


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (_rename_input, ["'other'", "'x'"]),
        (_rename_output, ["'other'", "'y'"]),
        (_surplus_input, ["'surplus'"]),
        (_other_dims, ["'x'", "[-1, 5]", "[-1, 4]"]),
        (_other_rank, ["'x'", "[-1, 4, 1]", "[-1, 4]"]),
        (_wider_dims, ["'x'", "[-1, -1]", "[-1, 4]"]),
        (_other_datatype, ["'x'", "INT64", "FP32"]),
        (_no_datatype, ["'y'", "FP32"]),
        (_unknown_backend, ["tensorrt"]),
        (_unknown_platform, ["pytorch_libtorch"]),
        (_no_batching, ["'x'", "[4]", "[-1, 4]"]),
        (_negative_batch, ["max_batch_size"]),
    ],
)
async def test_a_configuration_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, change: Callable[[ModelConfig], None], texts: list[str]
) -> None:
    """2.6: UNAVAILABLE, the reason names what differs on both sides."""
    changed = config()
    change(changed)
    write_model(tmp_path, changed, {1: MODEL})
    reason = await reason_of(tmp_path)
    for text in texts:
        assert text in reason


async def test_a_graph_of_a_fixed_batch_does_not_take_batches(tmp_path: Path) -> None:
    """2.6: a batching configuration over a graph whose first dimension is fixed."""
    model = tiny_models.identity("FP32", (1, 4))
    batching = config_of("m", model, max_batch_size=8)
    write_model(tmp_path, batching, {1: model})
    assert "[1, 4]" in await reason_of(tmp_path)


async def test_a_model_that_no_memory_can_hold_does_not_stop_the_others(tmp_path: Path) -> None:
    """2.6: whatever goes wrong in loading one model is that model's reason only."""
    model = tiny_models.identity("FP32", (2**31 - 1, 2**31 - 1, 2**31 - 1))
    write_model(tmp_path, config_of("m", model), {1: model})
    assert await reason_of(tmp_path)


async def test_an_unservable_tensor_type_is_a_reason(tmp_path: Path) -> None:
    """2.6: a type that the protocol has no name for."""
    model = tiny_models.identity("FP32", (None, 4))
    declared = config_of("m", model, max_batch_size=8)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = 16  # bfloat16
    write_model(tmp_path, declared, {1: model})
    assert await reason_of(tmp_path)


async def test_cuda_on_a_machine_without_it_is_told_and_never_replaced(tmp_path: Path) -> None:
    """Never a silent fall back to the CPU: the reason names the device and the provider."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    write_model(tmp_path, config(), {1: MODEL})
    reason = await reason_of(tmp_path, SessionOptions(device="cuda", intra_op_threads=1))
    assert "'cuda'" in reason
    assert "CUDAExecutionProvider" in reason


async def test_what_is_no_model_folder_is_ignored(tmp_path: Path) -> None:
    """Dot-folders (staging), files and foreign names are never models."""
    write_model(tmp_path, config(), {1: MODEL})
    (tmp_path / ".staging" / "1").mkdir(parents=True)
    (tmp_path / "not a model").mkdir()
    (tmp_path / "README.md").write_text("text")
    async with started(tmp_path) as engine:
        assert [e.name for e in await engine.index()] == ["m"]
        assert await engine.ready()


async def test_a_repository_that_does_not_exist_has_no_models(tmp_path: Path) -> None:
    """The engine starts all the same; nothing is found."""
    async with started(tmp_path / "nowhere") as engine:
        assert await engine.index() == []
        with pytest.raises(NotFoundError, match="'m' is not found"):
            engine.infer(InferRequest("m", {}))


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ({}, ["10"]),
        ({"latest": 1}, ["10"]),
        ({"latest": 2}, ["2", "10"]),
        ({"latest": 9}, ["1", "2", "10"]),
        ({"all": 1}, ["1", "2", "10"]),
        ({"specific": [2]}, ["2"]),
        ({"specific": [10, 1]}, ["1", "10"]),
    ],
    ids=str,
)
async def test_the_version_policy_is_honoured(
    tmp_path: Path, policy: dict[str, object], served: list[str]
) -> None:
    """2.6: latest n (default 1), all, specific; the highest served version answers."""
    changed = config()
    if "latest" in policy:
        changed.version_policy.latest.num_versions = policy["latest"]
    if "all" in policy:
        changed.version_policy.all.SetInParent()
    if "specific" in policy:
        changed.version_policy.specific.versions.extend(policy["specific"])
    write_model(tmp_path, changed, {1: MODEL, 2: MODEL, 10: MODEL})
    async with started(tmp_path) as engine:
        assert {e.version for e in await engine.index() if e.state == "READY"} == set(served)
        assert (await engine.metadata("m")).versions == tuple(served)
        x = np.ones((1, 4), np.float32)
        response: InferResponse = await engine.infer(InferRequest("m", {"x": x}))
        assert response.model_version == served[-1]


async def test_the_index_lists_versions_in_order_of_their_numbers(tmp_path: Path) -> None:
    """2.6: 2 before 10."""
    changed = config()
    changed.version_policy.all.SetInParent()
    write_model(tmp_path, changed, {10: MODEL, 2: MODEL})
    async with started(tmp_path) as engine:
        assert [e.version for e in await engine.index()] == ["2", "10"]


async def test_a_policy_that_names_no_version_that_is_there_is_a_reason(tmp_path: Path) -> None:
    """E03: `has no available versions`."""
    changed = config()
    changed.version_policy.specific.versions.extend([3])
    write_model(tmp_path, changed, {1: MODEL})
    async with started(tmp_path) as engine:
        assert not await engine.ready()
        with pytest.raises(NotFoundError, match="has no available versions"):
            await engine.metadata("m")


async def test_a_broken_version_leaves_the_good_one_serving(tmp_path: Path) -> None:
    """2.6: the highest ready version answers; the server is not ready, the index says why."""
    changed = config()
    changed.version_policy.all.SetInParent()
    write_model(tmp_path, changed, {1: MODEL, 2: b"not onnx"})
    async with started(tmp_path) as engine:
        x = np.ones((1, 4), np.float32)
        response: InferResponse = await engine.infer(InferRequest("m", {"x": x}))
        assert response.model_version == "1"
        assert not await engine.ready()
        with pytest.raises(NotReadyError):
            engine.infer(InferRequest("m", {"x": x}, model_version="2"))


async def test_a_closed_engine_refuses_and_has_answered_everything(tmp_path: Path) -> None:
    """E26: what was accepted is answered, what comes later is refused."""
    slow = tiny_models.slow(10)
    write_model(tmp_path, config_of("m", slow, max_batch_size=1, queue_delay_us=0), {1: slow})
    engine = Engine(LocalRepository(tmp_path), CPU, 64)
    await engine.start()
    inputs = {"rounds": np.array([[1]], np.int64), "x": np.ones((1, 1), np.float32)}
    futures = [engine.infer(InferRequest("m", inputs)) for _ in range(3)]
    closing = asyncio.create_task(engine.close())
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(NotReadyError):
        engine.infer(InferRequest("m", inputs))
    await asyncio.wait_for(closing, DEADLINE_S)
    assert all(f.result().outputs["y"].tolist() == [[1.0]] for f in futures)


async def test_the_smaller_of_the_two_queue_bounds_holds(tmp_path: Path) -> None:
    """E24: a configuration may lower the server's `max_queue_size`, not raise it."""
    changed = config()
    changed.dynamic_batching.default_queue_policy.max_queue_size = 2
    write_model(tmp_path, changed, {1: MODEL})
    async with started(tmp_path, queue=64) as engine:
        x = np.ones((1, 4), np.float32)
        futures = [engine.infer(InferRequest("m", {"x": x})) for _ in range(2)]
        with pytest.raises(OverloadedError, match="Exceeds maximum queue size: 2"):
            engine.infer(InferRequest("m", {"x": x}))
        await asyncio.gather(*futures)


async def test_a_model_that_answers_fewer_rows_than_its_batch_is_an_error(tmp_path: Path) -> None:
    """Requests of one batch never get each other's rows; alone, a request gets one row a row."""
    model = tiny_models.mean_of_batch()
    write_model(tmp_path, config_of("m", model, max_batch_size=8, queue_delay_us=0), {1: model})
    engine = Engine(LocalRepository(tmp_path), CPU, 64)
    await engine.start()
    try:
        if not await engine.ready():
            return
        futures = [
            engine.infer(InferRequest("m", {"x": np.full((1, 4), v, np.float32)})) for v in (1, 3)
        ]
        for future in futures:
            with pytest.raises(InternalError):
                await asyncio.wait_for(future, DEADLINE_S)
    finally:
        await engine.close()
