"""Opening sessions of ONNX Runtime: options in force, reasons in clear words, placement."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort
import pytest
from onnx import ModelProto

from atril_common.errors import NotReadyError
from atril_inference import providers
from atril_inference.providers import placement_of, provider_options
from atril_inference.runtime import open_session
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models

CPU = SessionOptions(device="cpu", intra_op_threads=1)
CUDA = SessionOptions(device="cuda", intra_op_threads=1)


def written(folder: Path, model: ModelProto) -> Path:
    """A model file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_the_options_are_those_in_force(tmp_path: Path) -> None:
    """What ONNX Runtime says of the session that it made."""
    options = CPU._replace(
        intra_op_threads=2,
        inter_op_threads=3,
        parallel=True,
        graph_level="basic",
        cpu_arena=False,
        memory_pattern=False,
        device_allocator_for_initializers=True,
    )
    session, _, run_options = open_session(written(tmp_path, tiny_models.matmul()), options)
    made = session.get_session_options()
    assert made.intra_op_num_threads == 2
    assert made.inter_op_num_threads == 3
    assert made.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert made.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert not made.enable_cpu_mem_arena
    assert not made.enable_mem_pattern
    key = "session.use_device_allocator_for_initializers"
    assert made.get_session_config_entry(key) == "1"
    assert run_options is None


def test_a_failed_run_never_moves_a_session_to_another_provider(tmp_path: Path) -> None:
    """In Python ONNX Runtime by default makes the session anew on the CPU; that is switched off."""
    session, _, _ = open_session(written(tmp_path, tiny_models.matmul()), CPU)
    assert not session._enable_fallback


@pytest.mark.parametrize(
    ("options", "arenas"),
    [
        (CPU._replace(shrink_arena=True), "cpu:0"),
        (CPU._replace(shrink_arena=True, arenas_to_shrink="cpu:0;gpu:0"), "cpu:0;gpu:0"),
        (CPU._replace(arenas_to_shrink="cpu:0"), "cpu:0"),
    ],
)
def test_shrinkage_is_an_option_of_each_run(
    tmp_path: Path, options: SessionOptions, arenas: str
) -> None:
    """What is free in the arena is given back after a run."""
    _, _, run_options = open_session(written(tmp_path, tiny_models.matmul()), options)
    assert run_options is not None
    key = "memory.enable_memory_arena_shrinkage"
    assert run_options.get_run_config_entry(key) == arenas


def test_a_newer_ir_version_is_told_with_both_numbers(tmp_path: Path) -> None:
    """The reason says what the file has and what this runtime reads."""
    model = tiny_models.matmul()
    model.ir_version = 99
    with pytest.raises(NotReadyError, match=r"model.onnx .* IR version 99, .* up to [0-9]+; "):
        open_session(written(tmp_path, model), CPU)


def test_a_newer_opset_is_told_with_both_numbers(tmp_path: Path) -> None:
    """The reason says what the file has and what this runtime reads."""
    model = tiny_models.matmul()
    model.opset_import[0].version = 99
    with pytest.raises(NotReadyError, match=r"opset 99 of domain ai.onnx, .* up to [0-9]+; "):
        open_session(written(tmp_path, model), CPU)


def test_a_reason_does_not_tell_of_the_runtimes_sources(tmp_path: Path) -> None:
    """One line, without the file and function in which the runtime noticed."""
    model = tiny_models.matmul()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(NotReadyError, match="NoSuchOperator") as raised:
        open_session(written(tmp_path, model), CPU)
    assert "onnxruntime_src" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_is_refused(device: str) -> None:
    """The text has the device, the provider and what there is."""
    if providers.PROVIDERS[device] in ort.get_available_providers():
        pytest.skip("this onnxruntime has it")
    with pytest.raises(NotReadyError, match=providers.PROVIDERS[device]) as raised:
        provider_options(CUDA._replace(device=device))
    assert "CPUExecutionProvider" in str(raised.value)


@pytest.fixture
def every_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that says it has every provider."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*providers.PROVIDERS.values()])


@pytest.mark.usefixtures("every_provider")
def test_cuda_is_given_its_options() -> None:
    """The search is heuristic and the arena grows by powers of two unless said otherwise."""
    assert provider_options(CUDA) == [
        (
            "CUDAExecutionProvider",
            {
                "device_id": "0",
                "arena_extend_strategy": "kNextPowerOfTwo",
                "cudnn_conv_algo_search": "HEURISTIC",
                "do_copy_in_default_stream": "1",
                "enable_cuda_graph": "0",
            },
        )
    ]
    changed = CUDA._replace(
        device_id=1, gpu_memory_limit_bytes=1 << 30, cuda_graphs=True, cuda=(("use_tf32", "0"),)
    )
    ((_, given),) = provider_options(changed)
    assert given["gpu_mem_limit"] == str(1 << 30)
    assert (given["device_id"], given["enable_cuda_graph"], given["use_tf32"]) == ("1", "1", "0")


@pytest.mark.usefixtures("every_provider")
def test_tensorrt_leaves_its_rest_to_cuda() -> None:
    """TensorRT first, CUDA for the nodes that it does not take."""
    options = CUDA._replace(device="tensorrt", tensorrt=(("trt_fp16_enable", "1"),))
    (first, given), (second, _) = provider_options(options)
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert given == {"device_id": "0", "trt_fp16_enable": "1"}


class Node(NamedTuple):
    """A node as ONNX Runtime tells of it."""

    op_type: str


class Part(NamedTuple):
    """A part of a graph as ONNX Runtime tells of it."""

    ep_name: str
    operators: Sequence[str]

    def get_nodes(self) -> list[Node]:
        """The nodes of the part."""
        return [Node(name) for name in self.operators]


class PlacedSession(NamedTuple):
    """What a session tells of where it runs: no GPU is needed to ask what we make of it."""

    in_force: list[str]
    parts: list[Part]

    def get_providers(self) -> list[str]:
        """Providers in force, first choice first."""
        return self.in_force

    def get_provider_graph_assignment_info(self) -> list[Part]:
        """Who runs what."""
        return self.parts


BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_the_nodes_of_a_real_session_are_counted(tmp_path: Path) -> None:
    """All of them on the CPU, where it was asked for."""
    path = written(tmp_path, tiny_models.sum_and_difference())
    _, placement, _ = open_session(path, CPU)
    assert placement.provider == "CPUExecutionProvider"
    assert placement.nodes == {"CPUExecutionProvider": 2}


def test_a_provider_that_is_not_in_force_is_refused() -> None:
    """ONNX Runtime went on without CUDA: the model is not ready."""
    session = PlacedSession(["CPUExecutionProvider"], [])
    with pytest.raises(NotReadyError, match="'cuda' was asked for, but CPUExecutionProvider is"):
        placement_of(session, CUDA, Path("model.onnx"))


def test_a_provider_that_got_no_node_is_refused() -> None:
    """CUDA is there, but every node runs on the CPU."""
    session = PlacedSession(BOTH, [Part("CPUExecutionProvider", ["Loop", "Loop", "Scan"])])
    with pytest.raises(NotReadyError, match=r"all 3 nodes .* run on the CPU: Loop ×2, Scan"):
        placement_of(session, CUDA, Path("model.onnx"))


def test_nodes_left_to_the_cpu_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A warning with how many and which; the counts are kept for the metrics."""
    parts = [Part("CUDAExecutionProvider", ["Conv"]), Part("CPUExecutionProvider", ["Loop"])]
    with caplog.at_level(logging.WARNING):
        placement = placement_of(PlacedSession(BOTH, parts), CUDA, Path("model.onnx"))
    (record,) = caplog.records
    assert record.message == "nodes_on_cpu"
    assert record.operators == "Loop"
    assert (record.nodes_on_cpu, record.nodes) == (1, 2)
    assert placement.nodes == {"CUDAExecutionProvider": 1, "CPUExecutionProvider": 1}


def test_a_graph_that_is_all_on_the_device_is_no_matter_for_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Silence when all is well."""
    session = PlacedSession(BOTH, [Part("CUDAExecutionProvider", ["Conv", "Relu"])])
    with caplog.at_level(logging.WARNING):
        assert placement_of(session, CUDA, Path("m")).nodes == {"CUDAExecutionProvider": 2}
    assert not caplog.records
