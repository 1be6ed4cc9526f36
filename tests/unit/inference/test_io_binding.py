"""Buffers of fixed sizes bound to a session: on the CPU here, with the code that a GPU runs."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from atril_common.core import InferRequest
from atril_inference import io_binding
from atril_inference.io_binding import GRAPH_ID, BucketRunner, bind_buckets
from atril_inference.runtime import open_session
from atril_inference.session import OnnxSession
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models

CPU = SessionOptions(device="cpu", intra_op_threads=1)
SIZES = (1, 4, 8)


def loaded(folder: Path, model: ModelProto, options: SessionOptions = CPU) -> OnnxSession:
    """A session over a model file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return OnnxSession.load(path, "1", options)


def bound(folder: Path, model: ModelProto, options: SessionOptions = CPU) -> BucketRunner | None:
    """Its buffers."""
    session = loaded(folder, model)
    return bind_buckets(session._session, session.inputs, session.outputs, SIZES, options)


def rows(count: int, seed: int = 0) -> np.ndarray:
    """A batch for a model that takes `x`."""
    return np.random.default_rng(seed).random((count, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> BucketRunner:
    """Buffers of the product with WEIGHTS."""
    made = bound(tmp_path_factory.mktemp("bound"), tiny_models.matmul())
    assert made is not None
    return made


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_every_batch_gets_its_own_rows(runner: BucketRunner, sizes: list[int]) -> None:
    """Whatever ran in the buffers before, and however many rows of them a batch fills."""
    answers = []
    for number, size in enumerate(sizes):
        x = rows(size, number)
        (y,) = runner.run(["y"], {"x": x}) or [np.empty(0)]
        answers.append((x, y))
    for x, y in answers:  # checked last: an answer does not change when later batches run
        assert y.shape == (len(x), 3)
        assert np.allclose(y, x @ tiny_models.WEIGHTS, atol=1e-5)


def test_a_batch_over_the_largest_bucket_is_left_to_others(runner: BucketRunner) -> None:
    """Nine rows, eight at most."""
    assert runner.sizes == SIZES
    assert runner.run(["y"], {"x": rows(9)}) is None


def test_outputs_are_answered_as_they_are_asked_for(tmp_path: Path) -> None:
    """Two inputs, and the second output before the first, or alone."""
    made = bound(tmp_path, tiny_models.sum_and_difference())
    assert made is not None
    a, b = (np.arange(12, dtype=np.int32).reshape(3, 4) * k for k in (1, 2))
    difference, total = made.run(["difference", "sum"], {"a": a, "b": b}) or []
    assert np.array_equal(difference, a - b)
    assert np.array_equal(total, a + b)
    (alone,) = made.run(["difference"], {"a": b, "b": a}) or []
    assert np.array_equal(alone, b - a)


def test_threads_do_not_meet_in_a_buffer(runner: BucketRunner) -> None:
    """Four threads in the same bucket, many times."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(100):
            x = rows(3, 1000 * seed + step)
            (y,) = runner.run(["y"], {"x": x}) or [np.empty(0)]
            if not np.allclose(y, x @ tiny_models.WEIGHTS, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


@pytest.mark.parametrize(
    "model",
    [
        tiny_models.identity("FP32", (None, None)),
        tiny_models.identity("FP32", (2, 3)),
        tiny_models.identity("BYTES", (None, 2)),
        tiny_models.logarithm(),
        tiny_models.mean_of_batch(),
    ],
    ids=["inner dimension", "fixed batch", "strings", "no inner", "fewer rows"],
)
def test_only_shapes_that_are_fixed_but_for_the_batch_are_bound(
    tmp_path: Path, model: ModelProto
) -> None:
    """Others are run as without buffers; one dimension alone is a batch of numbers."""
    made = bound(tmp_path, model)
    if model.graph.node[0].op_type == "Log":
        assert made is not None
        (y,) = made.run(["y"], {"x": np.ones(3, np.float32)}) or [None]
        assert y is not None
        assert y.tolist() == [0, 0, 0]
    else:
        assert made is None


def test_each_bucket_is_a_graph_of_its_own(tmp_path: Path) -> None:
    """With CUDA graphs every size has its number, and runs without buffers are kept out."""
    options = CPU._replace(cuda_graphs=True)
    made = bound(tmp_path, tiny_models.matmul(), options)
    assert made is not None
    ids = [bucket.run_options.get_run_config_entry(GRAPH_ID) for bucket in made._buckets]
    assert ids == ["1", "2", "3"]
    _, _, plain = open_session(tmp_path / "model.onnx", options)
    assert plain is not None
    assert plain.get_run_config_entry(GRAPH_ID) == "-1"


async def test_a_session_runs_in_its_buckets_and_beyond_them(tmp_path: Path) -> None:
    """The same answers within the largest bucket and over it."""
    session = loaded(tmp_path, tiny_models.matmul())
    session.bind_buckets(SIZES, CPU)
    for count in (1, 3, 8, 11):
        x = rows(count)
        result: Any = session.execute(InferRequest("m", {"x": x}))
        assert np.allclose(result.outputs["y"], x @ tiny_models.WEIGHTS, atol=1e-5)


async def test_a_session_that_cannot_be_bound_runs_as_before(tmp_path: Path) -> None:
    """Strings are not copied into buffers."""
    session = loaded(tmp_path, tiny_models.identity("BYTES", (None, 2)))
    session.bind_buckets(SIZES, CPU)
    texts = np.array([[b"a", b"b"]], dtype=object)
    result: Any = session.execute(InferRequest("m", {"input": texts}))
    assert result.outputs["output"].tolist() == texts.tolist()


class Device:
    """A device as ONNX Runtime tells of it."""

    def __init__(self, name: str, memory: Any) -> None:
        self.ep_name = name
        self.memory = memory

    def memory_info(self, kind: Any) -> Any:
        """Its page-locked memory."""
        assert kind == ort.OrtDeviceMemoryType.HOST_ACCESSIBLE
        return self.memory


class Memory:
    """Memory of a device."""

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id


def test_page_locked_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """By provider and index; where there is none, ordinary memory serves."""
    second = Memory(1)
    devices = [
        Device("CPUExecutionProvider", None),
        Device("CUDAExecutionProvider", Memory(0)),
        Device("CUDAExecutionProvider", second),
    ]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)
    cuda = CPU._replace(device="cuda", device_id=1)
    assert io_binding._pinned_memory(cuda) is second
    assert io_binding._pinned_memory(cuda._replace(device_id=2)) is None
    assert io_binding._pinned_memory(CPU) is None
