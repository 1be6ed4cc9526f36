"""Configurations that leave things out, and tensors that callers see in another shape."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import InvalidInputError
from atril_inference.engine import Engine
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

CPU = SessionOptions(device="cpu", intra_op_threads=1)


async def started(root: Path) -> Engine:
    """An engine that has loaded a repository."""
    engine = Engine(LocalRepository(root), CPU, 64)
    await engine.start()
    return engine


async def loaded(root: Path, model: ModelProto, text: str | None) -> ModelConfig:
    """The configuration in force of a model under the one that is written, if one is."""
    folder = write_model(root, ModelConfig(name="m"), {1: model})
    (folder / "config.pbtxt").unlink()
    if text is not None:
        (folder / "config.pbtxt").write_text(text)
    engine = await started(root)
    try:
        assert await engine.ready(), engine.entries()
        return await engine.config("m")
    finally:
        await engine.close()


@pytest.mark.parametrize("text", [None, "", 'name: "m"', 'backend: "onnxruntime"'])
async def test_a_bare_model_gets_its_configuration_from_its_graph(
    tmp_path: Path, text: str | None
) -> None:
    """2.11: inputs, outputs, a batch of 4, and dynamic batching, as Triton completes it."""
    config = await loaded(tmp_path, tiny_models.matmul(), text)
    expected = config_of("m", tiny_models.matmul(), max_batch_size=4, queue_delay_us=0)
    expected.dynamic_batching.Clear()
    assert config == expected


@pytest.mark.parametrize(
    "model",
    [
        tiny_models.identity("FP32", (2, 3)),
        tiny_models.identity("INT64", ()),
        tiny_models.identity("BYTES", (1, None)),
        tiny_models.zeros(),
    ],
    ids=["fixed", "scalar", "text", "only the output varies"],
)
async def test_a_graph_without_a_variable_first_dimension_is_not_batched(
    tmp_path: Path, model: ModelProto
) -> None:
    """2.11: every input and output must have one; the dims are then those of the graph."""
    config = await loaded(tmp_path, model, None)
    assert config == config_of("m", model)


@pytest.mark.parametrize(
    ("text", "batch"),
    [
        ("max_batch_size: 16", 16),
        ('input { name: "x" data_type: TYPE_FP32 dims: [4] }', 4),
        ('input { name: "x" data_type: TYPE_FP32 dims: [-1, 4] }', 0),
        ('output { name: "y" data_type: TYPE_FP32 dims: [3] }', 4),
    ],
)
async def test_what_a_configuration_says_is_kept(tmp_path: Path, text: str, batch: int) -> None:
    """2.11: only what is missing is completed, in keeping with what is there."""
    config = await loaded(tmp_path, tiny_models.matmul(), text)
    assert config.max_batch_size == batch
    assert config.HasField("dynamic_batching") == (batch > 0)
    free = [] if batch else [-1]
    assert [list(config.input[0].dims), list(config.output[0].dims)] == [[*free, 4], [*free, 3]]


async def test_a_complete_configuration_is_not_touched(tmp_path: Path) -> None:
    """2.11: a batch of 0 and no dynamic batching are what the configuration says."""
    write_model(tmp_path, config_of("m", tiny_models.matmul()), {1: tiny_models.matmul()})
    engine = await started(tmp_path)
    assert await engine.config("m") == config_of("m", tiny_models.matmul())
    await engine.close()


def reshaping(dims: list[int], shape: list[int], *, batch: int = 8) -> ModelConfig:
    """A configuration of an identity whose callers see `dims` where the graph has `shape`."""
    graph = tuple(d if d >= 0 else None for d in shape)
    model = tiny_models.identity("FP32", (None, *graph) if batch else graph)
    config = config_of("m", model, max_batch_size=batch)
    for tensor in (config.input[0], config.output[0]):
        tensor.dims[:] = dims
        tensor.reshape.shape.extend(shape)
        tensor.reshape.SetInParent()
    return config


@pytest.mark.parametrize(
    ("dims", "shape", "batch", "sent"),
    [
        ([1], [], 8, (3, 1)),
        ([2, 3], [6], 8, (3, 2, 3)),
        ([-1, 2, 3], [-1, 6], 8, (3, 5, 2, 3)),
        ([1], [], 0, (1,)),
    ],
    ids=str,
)
async def test_a_reshaped_tensor_has_the_declared_shape_outside(
    tmp_path: Path, dims: list[int], shape: list[int], batch: int, sent: tuple[int, ...]
) -> None:
    """2.11: callers see `dims`, the graph gets `reshape`; answers come back in `dims`."""
    graph = tuple(d if d >= 0 else None for d in shape)
    model = tiny_models.identity("FP32", (None, *graph) if batch else graph)
    write_model(tmp_path, reshaping(dims, shape, batch=batch), {1: model})
    engine = await started(tmp_path)
    try:
        assert await engine.ready(), engine.entries()
        metadata = await engine.metadata("m")
        assert metadata.inputs[0].shape == ((-1, *dims) if batch else tuple(dims))
        x = np.random.default_rng(0).random(sent, np.float32)
        response: InferResponse = await engine.infer(InferRequest("m", {"input": x}))
        assert np.array_equal(response.outputs["output"], x)
        with pytest.raises(InvalidInputError):
            engine.infer(InferRequest("m", {"input": x.reshape(-1)[..., None, None]}))
    finally:
        await engine.close()


@pytest.mark.parametrize(("dims", "shape"), [([2], []), ([-1, -1], [-1, -1]), ([-1], [1])])
async def test_a_reshape_that_cannot_be_done_is_a_reason(
    tmp_path: Path, dims: list[int], shape: list[int]
) -> None:
    """2.6: UNAVAILABLE, and the reason names both shapes."""
    config = reshaping(dims, shape)
    graph = tuple(d if d >= 0 else None for d in shape)
    write_model(tmp_path, config, {1: tiny_models.identity("FP32", (None, *graph))})
    engine = await started(tmp_path)
    (entry,) = engine.entries()
    assert f"from {dims} to {shape}" in entry.reason
    await engine.close()
