"""The same convolution on every device that this machine has: buffers, graphs, memory, limits.

The tests of a GPU skip where ONNX Runtime has no CUDA; those of the CPU are the same code.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from atril_common.core import InferRequest
from atril_inference.engine import Engine
from atril_inference.gpus import process_bytes
from atril_inference.providers import PROVIDERS
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import IR_VERSION, OPSET

MAX_BATCH_SIZE = 8
TOLERANCE = 5e-3
"""Of a GPU, which may multiply in TF32; the values are of the order of 1."""


def options_on(device: Any, **changes: Any) -> SessionOptions:
    """Options of a device that this machine has; skips where it has not."""
    if PROVIDERS[device] not in ort.get_available_providers():
        pytest.skip(f"onnxruntime {ort.__version__} has no {PROVIDERS[device]} here")
    return SessionOptions(device=device, intra_op_threads=1, **changes)


WEIGHTS = np.random.default_rng(1).normal(0, 0.2, (16, 3, 3, 3)).astype(np.float32)


def convolution() -> ModelProto:
    """`y` = the mean over each picture of relu(conv(x)): FP32 `[batch, 3, 16, 16]` to 16 means."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "weights"], ["sums"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["sums"], ["active"]),
            helper.make_node("GlobalAveragePool", ["active"], ["means"]),
            helper.make_node("Flatten", ["means"], ["y"]),
        ],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 16])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def expected(x: np.ndarray) -> np.ndarray:
    """The same in numpy."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    sums = np.einsum("bchwij,kcij->bkhw", windows, WEIGHTS)
    return np.maximum(sums, 0).mean(axis=(2, 3))


@asynccontextmanager
async def serving(root: Path, options: SessionOptions) -> AsyncIterator[Engine]:
    """An engine over the convolution."""
    model = convolution()
    config = config_of("m", model, max_batch_size=MAX_BATCH_SIZE, queue_delay_us=0)
    write_model(root, config, {1: model})
    engine = Engine(LocalRepository(root), options, 64)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("device", "graphs"),
    [("cpu", False), ("cuda", False), ("cuda", True), ("tensorrt", False)],
    ids=["cpu", "cuda", "cuda graphs", "tensorrt"],
)
async def test_every_batch_is_answered_on_its_device(
    tmp_path: Path, device: str, graphs: bool
) -> None:
    """All sizes, those between the buckets too, in an order in which buffers hold other rows."""
    options = options_on(device, cuda_graphs=graphs)
    random = np.random.default_rng(0)
    async with serving(tmp_path, options) as engine:
        (entry,) = await engine.index()
        assert entry.state == "READY", entry.reason
        for size in (8, 1, 5, 2, 7, 3, 8, 1):
            x = random.random((size, 3, 16, 16), np.float32)
            answer: Any = await engine.infer(InferRequest("m", {"x": x}))
            assert np.allclose(answer.outputs["y"], expected(x), atol=TOLERANCE)


@pytest.mark.parametrize("device", ["cpu", "cuda", "tensorrt"])
async def test_the_whole_graph_runs_on_its_device(tmp_path: Path, device: str) -> None:
    """Nothing is left to the CPU that the device can do."""
    async with serving(tmp_path, options_on(device)) as engine:
        (model,) = engine.served()
        assert model.placement.provider == PROVIDERS[device]
        assert set(model.placement.nodes) == {PROVIDERS[device]}
        assert [taken.batch_size for taken in model.load_record.warm_up_times] == [1, 8, 4, 2]


async def test_the_memory_on_a_gpu_is_told(tmp_path: Path) -> None:
    """As the driver has it, where its library is installed."""
    async with serving(tmp_path, options_on("cuda")) as engine:
        (statistics,) = await engine.statistics("m")
        (usage,) = statistics.memory_usage
        assert (usage.type, usage.id) == ("GPU", 0)
        if process_bytes(0) is not None:
            assert usage.byte_size > 0


async def test_a_limit_that_a_model_does_not_fit_in_is_a_reason(tmp_path: Path) -> None:
    """`gpu_mem_limit`: less than the weights, so the model is not ready and says why."""
    options = options_on("cuda", gpu_memory_limit_bytes=256)
    async with serving(tmp_path, options) as engine:
        (entry,) = await engine.index()
        assert entry.state == "UNAVAILABLE"
        assert entry.reason
