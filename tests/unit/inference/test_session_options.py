"""What a model's configuration changes of how the server runs its sessions."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import NotReadyError
from atril_inference.session_options import SessionOptions, instance_count, options_for

CPU = SessionOptions(device="cpu", intra_op_threads=3)
CUDA = SessionOptions(device="cuda", intra_op_threads=3)
TENSORRT = SessionOptions(device="tensorrt", intra_op_threads=3)


def parsed(text: str) -> ModelConfig:
    """A configuration from its text."""
    return text_format.Parse(text, ModelConfig())


def parameter(name: str, value: str) -> ModelConfig:
    """A configuration with one parameter."""
    config = ModelConfig()
    config.parameters[name].string_value = value
    return config


def test_a_configuration_that_says_nothing_changes_nothing() -> None:
    """The server's options as they are."""
    assert options_for(parsed("max_batch_size: 8 dynamic_batching {}"), CPU) == CPU


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("intra_op_thread_count", "2", "intra_op_threads", 2),
        ("intra_op_thread_count", "0", "intra_op_threads", 3),
        ("inter_op_thread_count", "4", "inter_op_threads", 4),
        ("execution_mode", "1", "parallel", True),
        ("execution_mode", "0", "parallel", False),
        ("enable_mem_arena", "0", "cpu_arena", False),
        ("enable_mem_pattern", "0", "memory_pattern", False),
        ("memory.enable_memory_arena_shrinkage", "cpu:0;gpu:1", "arenas_to_shrink", "cpu:0;gpu:1"),
        (
            "session.use_device_allocator_for_initializers",
            "1",
            "device_allocator_for_initializers",
            True,
        ),
        ("gpu_mem_limit", "4294967296", "gpu_memory_limit_bytes", 1 << 32),
        ("gpu_mem_limit", str(2**64 - 1), "gpu_memory_limit_bytes", 0),
        ("arena_extend_strategy", "1", "gpu_arena_strategy", "kSameAsRequested"),
        ("cudnn_conv_algo_search", "0", "convolution_search", "EXHAUSTIVE"),
        ("do_copy_in_default_stream", "0", "copy_in_default_stream", False),
    ],
)
def test_a_parameter_of_tritons_back_end_is_read(
    name: str, value: str, field: str, expected: object
) -> None:
    """The `parameters` that Triton's ONNX Runtime back end documents."""
    assert getattr(options_for(parameter(name, value), CPU), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("intra_op_thread_count", "many"),
        ("intra_op_thread_count", "-1"),
        ("inter_op_thread_count", "257"),
        ("execution_mode", "2"),
        ("enable_mem_arena", "yes"),
        ("memory.enable_memory_arena_shrinkage", "cpu"),
        ("gpu_mem_limit", "1GB"),
        ("cudnn_conv_algo_search", "HEURISTIC"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(name: str, value: str) -> None:
    """The text names the parameter and what it holds."""
    with pytest.raises(NotReadyError, match=name) as raised:
        options_for(parameter(name, value), CPU)
    assert f"'{value}'" in str(raised.value)


def test_a_parameter_of_somebody_else_is_left_alone() -> None:
    """Task facts live in `parameters` too."""
    assert options_for(parameter("atril.task", "classify"), CPU) == CPU


@pytest.mark.parametrize(
    ("level", "expected"), [(-1, "basic"), (0, "all"), (1, "extended"), (2, "none")]
)
def test_a_graph_level_has_tritons_meaning(level: int, expected: str) -> None:
    """`optimization { graph { level } }`."""
    config = parsed(f"optimization {{ graph {{ level: {level} }} }}")
    assert options_for(config, CPU).graph_level == expected


def test_an_unknown_graph_level_is_refused() -> None:
    """The text names the levels there are."""
    with pytest.raises(NotReadyError, match=r"level must be one of \[-1, 0, 1, 2\], got 7"):
        options_for(parsed("optimization { graph { level: 7 } }"), CPU)


@pytest.mark.parametrize(
    ("side", "name", "options"),
    [
        ("cpu", "openvino", CPU),
        ("cpu", "openvino", CUDA),
        ("gpu", "tensorrt", CPU),
        ("gpu", "tensorrt", CUDA),
        ("gpu", "cuda", CPU),
        ("gpu", "auto_mixed_precision", TENSORRT),
    ],
)
def test_an_accelerator_that_is_not_in_force_is_refused(
    side: str, name: str, options: SessionOptions
) -> None:
    """An accelerator is never left out silently."""
    config = parsed(
        f'optimization {{ execution_accelerators {{ {side}_execution_accelerator {{ name: "{name}"'
        " } } }"
    )
    with pytest.raises(NotReadyError, match=f"'{name}'"):
        options_for(config, options)


def test_options_of_cuda_are_passed_on() -> None:
    """In ONNX Runtime's own words; the switch of CUDA graphs is understood here too."""
    config = parsed(
        """optimization { execution_accelerators { gpu_execution_accelerator {
             name: "cuda"
             parameters { key: "use_tf32" value: "0" }
             parameters { key: "enable_cuda_graph" value: "1" }
           } } }"""
    )
    options = options_for(config, CUDA)
    assert options.cuda == (("use_tf32", "0"),)
    assert options.cuda_graphs


def test_options_of_tensorrt_are_translated() -> None:
    """Triton's names become ONNX Runtime's."""
    config = parsed(
        """optimization { execution_accelerators { gpu_execution_accelerator {
             name: "tensorrt"
             parameters { key: "precision_mode" value: "FP16" }
             parameters { key: "max_workspace_size_bytes" value: "1024" }
             parameters { key: "trt_engine_cache_enable" value: "1" }
           } } }"""
    )
    assert dict(options_for(config, TENSORRT).tensorrt) == {
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "1024",
        "trt_engine_cache_enable": "1",
    }
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator[0]
    accelerator.parameters["precision_mode"] = "FP8"
    with pytest.raises(NotReadyError, match="FP32, FP16, INT8, got 'FP8'"):
        options_for(config, TENSORRT)


@pytest.mark.parametrize(("options", "graphs"), [(CPU, False), (CUDA, True)])
def test_cuda_graphs_are_for_gpus(options: SessionOptions, graphs: bool) -> None:
    """By the model or by the server; they have no meaning on a CPU."""
    config = parsed("optimization { cuda { graphs: true } }")
    assert options_for(config, options).cuda_graphs is graphs
    assert options_for(ModelConfig(), options._replace(cuda_graphs=True)).cuda_graphs is graphs


def test_the_graphs_of_tensorrt_are_its_own() -> None:
    """It has an option for them, and ONNX Runtime's would be refused without a clear reason."""
    with pytest.raises(NotReadyError, match="trt_cuda_graph_enable"):
        options_for(parsed("optimization { cuda { graphs: true } }"), TENSORRT)


def test_an_instance_group_chooses_the_device() -> None:
    """KIND_CPU runs on the CPU of a GPU server; `gpus` chooses one of several."""
    assert options_for(parsed("instance_group { kind: KIND_CPU }"), CUDA).device == "cpu"
    chosen = options_for(parsed("instance_group { kind: KIND_GPU gpus: 1 }"), CUDA)
    assert (chosen.device, chosen.device_id) == ("cuda", 1)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ("instance_group { kind: KIND_GPU }", "KIND_GPU, but this server's device is 'cpu'"),
        ("instance_group [{ kind: KIND_GPU }, { kind: KIND_CPU }]", "a model has one device"),
        ("instance_group { gpus: [0, 1] }", r"GPUs \[0, 1\]"),
    ],
)
def test_a_device_that_cannot_be_had_is_refused(groups: str, text: str) -> None:
    """Never another device than the one asked for."""
    with pytest.raises(NotReadyError, match=text):
        options_for(parsed(groups), CPU)


@pytest.mark.parametrize(
    ("groups", "count"),
    [
        ("", 1),
        ("instance_group {}", 1),
        ("instance_group { count: 3 }", 3),
        ("instance_group [{ count: 2 }, { count: 1 }]", 3),
    ],
)
def test_the_instances_are_counted(groups: str, count: int) -> None:
    """A group without a count is one instance."""
    assert instance_count(parsed(groups)) == count
