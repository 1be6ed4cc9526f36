"""How a session is run: the server's settings, and what a model's configuration changes of them.

A configuration speaks Triton's words: the `parameters` of its ONNX Runtime back end,
`optimization { graph, cuda, execution_accelerators }` and the kind of its instance groups. Whatever
of that cannot be in force is refused with the reason.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import NotReadyError

Device = Literal["cpu", "cuda", "tensorrt"]
GraphLevel = Literal["all", "extended", "basic", "none"]
ArenaStrategy = Literal["kNextPowerOfTwo", "kSameAsRequested"]
ConvolutionSearch = Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"]


class SessionOptions(NamedTuple):
    """On which device, with which threads and with how much memory a session runs.

    With `shrink_arena` the device's arena gives back after each run what is free in it;
    `arenas_to_shrink` names others (`cpu:0;gpu:0`). `gpu_memory_limit_bytes` 0 is no limit.
    `tensorrt` and `cuda` are options of these providers beyond those that have a field, in ONNX
    Runtime's words.
    """

    device: Device
    intra_op_threads: int
    inter_op_threads: int = 1
    parallel: bool = False
    graph_level: GraphLevel = "all"
    cpu_arena: bool = True
    memory_pattern: bool = True
    shrink_arena: bool = False
    arenas_to_shrink: str = ""
    device_allocator_for_initializers: bool = False
    device_id: int = 0
    gpu_memory_limit_bytes: int = 0
    gpu_arena_strategy: ArenaStrategy = "kNextPowerOfTwo"
    convolution_search: ConvolutionSearch = "HEURISTIC"
    copy_in_default_stream: bool = True
    cuda_graphs: bool = False
    warm_up_budget_s: float = 30.0
    cuda: tuple[tuple[str, str], ...] = ()
    tensorrt: tuple[tuple[str, str], ...] = ()


def options_for(config: ModelConfig, server: SessionOptions) -> SessionOptions:
    """The options of one model: the server's, changed by the model's configuration.

    Raises:
        NotReadyError: the configuration asks for what cannot be in force; the text names the field,
            what it holds and what is possible.
    """
    options = _with_device(config, server)
    options = _with_accelerators(config, options)
    options = _with_parameters(config, options)
    if config.optimization.HasField("graph"):
        level = config.optimization.graph.level
        if level not in _GRAPH_LEVELS:
            raise NotReadyError(
                f"optimization.graph.level must be one of {sorted(_GRAPH_LEVELS)}, got {level}"
            )
        options = options._replace(graph_level=_GRAPH_LEVELS[level])
    return _with_graphs(config, options)


def instance_count(config: ModelConfig) -> int:
    """How many batches of a model may be under way at once: the sum of its instance groups."""
    return sum(max(1, group.count) for group in config.instance_group) or 1


_GRAPH_LEVELS: Mapping[int, GraphLevel] = MappingProxyType(
    {-1: "basic", 0: "all", 1: "extended", 2: "none"}
)
"""Triton's numbers of the graph optimisation levels."""


def _with_graphs(config: ModelConfig, options: SessionOptions) -> SessionOptions:
    asked = options.cuda_graphs or config.optimization.cuda.graphs
    if asked and options.device == "tensorrt":
        raise NotReadyError(
            "CUDA graphs were asked for, which TensorRT has by its own option "
            "trt_cuda_graph_enable of the accelerator 'tensorrt'"
        )
    return options._replace(cuda_graphs=asked and options.device == "cuda")


def _with_device(config: ModelConfig, options: SessionOptions) -> SessionOptions:
    kinds = {group.kind for group in config.instance_group}
    gpus = {gpu for group in config.instance_group for gpu in group.gpus}
    on_gpu = model_config_pb2.ModelInstanceGroup.KIND_GPU
    on_cpu = model_config_pb2.ModelInstanceGroup.KIND_CPU
    if {on_gpu, on_cpu} <= kinds:
        raise NotReadyError("instance_group asks for KIND_CPU and KIND_GPU: a model has one device")
    if on_gpu in kinds and options.device == "cpu":
        raise NotReadyError("instance_group asks for KIND_GPU, but this server's device is 'cpu'")
    if len(gpus) > 1:
        raise NotReadyError(
            f"instance_group names the GPUs {sorted(gpus)}: a model has one device; start a server "
            f"for each"
        )
    if on_cpu in kinds:
        return options._replace(device="cpu")
    return options._replace(device_id=gpus.pop()) if gpus else options


def _with_accelerators(config: ModelConfig, options: SessionOptions) -> SessionOptions:
    accelerators = config.optimization.execution_accelerators
    for accelerator in accelerators.cpu_execution_accelerator:
        raise NotReadyError(
            f"optimization.execution_accelerators asks for '{accelerator.name}' on the CPU, which "
            f"this server does not have"
        )
    for accelerator in accelerators.gpu_execution_accelerator:
        given = dict(accelerator.parameters)
        if accelerator.name == "tensorrt" and options.device == "tensorrt":
            options = options._replace(tensorrt=_tensorrt(given))
        elif accelerator.name == "cuda" and options.device != "cpu":
            graphs = given.pop("enable_cuda_graph", str(int(options.cuda_graphs)))
            options = options._replace(cuda=tuple(sorted(given.items())), cuda_graphs=graphs == "1")
        else:
            raise NotReadyError(
                f"optimization.execution_accelerators asks for '{accelerator.name}', but this "
                f"model's device is '{options.device}'"
            )
    return options


_TENSORRT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "max_workspace_size_bytes": "trt_max_workspace_size",
        "int8_calibration_table_name": "trt_int8_calibration_table_name",
        "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
    }
)
"""Triton's names of TensorRT's options, where they are not ONNX Runtime's own."""

_PRECISIONS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "FP32": (),
        "FP16": (("trt_fp16_enable", "1"),),
        "INT8": (("trt_int8_enable", "1"),),
    }
)


def _tensorrt(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    options: list[tuple[str, str]] = []
    for name, value in sorted(given.items()):
        if name != "precision_mode":
            options.append((_TENSORRT_NAMES.get(name, name), value))
        elif value in _PRECISIONS:
            options += _PRECISIONS[value]
        else:
            raise NotReadyError(
                f"precision_mode of 'tensorrt' must be one of {', '.join(_PRECISIONS)}, got "
                f"'{value}'"
            )
    return tuple(options)


def _with_parameters(config: ModelConfig, options: SessionOptions) -> SessionOptions:
    for name, change in _PARAMETERS.items():
        if name in config.parameters:
            text = config.parameters[name].string_value
            try:
                options = change(options, text)
            except ValueError as err:
                raise NotReadyError(f"parameter '{name}' must be {err}, got '{text}'") from None
    return options


def _threads(text: str, default: int) -> int:
    if not (text.isdecimal() and int(text) <= _MAX_THREADS):
        raise ValueError(f"a number of threads from 0 (the server's) to {_MAX_THREADS}")
    return int(text) or default


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def _bytes(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a number of bytes")
    return 0 if int(text) >= _NO_LIMIT else int(text)


def _arena_strategy(text: str) -> ArenaStrategy:
    return "kSameAsRequested" if _switch(text) else "kNextPowerOfTwo"


def _search(text: str) -> ConvolutionSearch:
    if text not in _SEARCHES:
        raise ValueError("0 (EXHAUSTIVE), 1 (HEURISTIC) or 2 (DEFAULT)")
    return _SEARCHES[text]


def _arenas(text: str) -> str:
    if text and not _ARENAS.fullmatch(text):
        raise ValueError("arenas such as 'cpu:0' or 'cpu:0;gpu:0'")
    return text


_MAX_THREADS = 256
_NO_LIMIT = 2**63
_ARENAS = re.compile(r"(cpu:0|gpu:[0-9]{1,2})(;(cpu:0|gpu:[0-9]{1,2}))*")
_SEARCHES: Mapping[str, ConvolutionSearch] = MappingProxyType(
    {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
)

_PARAMETERS: Mapping[str, Callable[[SessionOptions, str], SessionOptions]] = MappingProxyType(
    {
        "intra_op_thread_count": lambda o, text: o._replace(
            intra_op_threads=_threads(text, o.intra_op_threads)
        ),
        "inter_op_thread_count": lambda o, text: o._replace(
            inter_op_threads=_threads(text, o.inter_op_threads)
        ),
        "execution_mode": lambda o, text: o._replace(parallel=_switch(text)),
        "enable_mem_arena": lambda o, text: o._replace(cpu_arena=_switch(text)),
        "enable_mem_pattern": lambda o, text: o._replace(memory_pattern=_switch(text)),
        "memory.enable_memory_arena_shrinkage": lambda o, text: o._replace(
            arenas_to_shrink=_arenas(text)
        ),
        "session.use_device_allocator_for_initializers": lambda o, text: o._replace(
            device_allocator_for_initializers=_switch(text)
        ),
        "gpu_mem_limit": lambda o, text: o._replace(gpu_memory_limit_bytes=_bytes(text)),
        "arena_extend_strategy": lambda o, text: o._replace(
            gpu_arena_strategy=_arena_strategy(text)
        ),
        "cudnn_conv_algo_search": lambda o, text: o._replace(convolution_search=_search(text)),
        "do_copy_in_default_stream": lambda o, text: o._replace(
            copy_in_default_stream=_switch(text)
        ),
    }
)
"""The parameters of Triton's ONNX Runtime back end, each with what it changes."""
