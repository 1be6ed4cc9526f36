"""Execution providers: asked for, in force, and which nodes of a graph each one got.

A provider that was asked for is in force or the model is not ready. ONNX Runtime by itself goes on
with the next provider when one cannot be had, at creation and, in Python, even at a failed run;
neither is let happen.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import onnxruntime as ort

from atril_common.errors import NotReadyError
from atril_inference.session_options import Device, SessionOptions

logger = logging.getLogger(__name__)

PROVIDERS: Mapping[Device, str] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
    }
)
"""Device of the settings to ONNX Runtime's execution provider."""

_MOST_OPERATORS_TOLD = 8


class Placement(NamedTuple):
    """Where a graph runs: the provider that was asked for, and how many nodes each one got."""

    provider: str
    nodes: Mapping[str, int]


def provider_options(options: SessionOptions) -> list[tuple[str, dict[str, str]]]:
    """The providers of a session, first choice first, each with its options.

    With TensorRT, CUDA takes the nodes that it does not; ONNX Runtime adds the CPU by itself.

    Raises:
        NotReadyError: this installation of ONNX Runtime does not have the provider.
    """
    wanted = PROVIDERS[options.device]
    available = ort.get_available_providers()
    if wanted not in available:
        raise NotReadyError(
            f"device '{options.device}' was asked for, but onnxruntime {ort.__version__} has no "
            f"{wanted} here; it has {', '.join(available)}"
        )
    if options.device == "cpu":
        return [(wanted, {})]
    cuda = (PROVIDERS["cuda"], _cuda(options))
    if options.device == "cuda":
        return [cuda]
    return [(wanted, {"device_id": str(options.device_id), **dict(options.tensorrt)}), cuda]


def placement_of(session: ort.InferenceSession, options: SessionOptions, path: Path) -> Placement:
    """Where ONNX Runtime put the graph; nodes left to the CPU are told in a warning.

    Shapes are computed on the CPU by design, so a few such nodes are no fault; that none is on the
    device is.

    Raises:
        NotReadyError: the provider that was asked for is not in force, or got no node.
    """
    wanted = PROVIDERS[options.device]
    in_force = session.get_providers()
    if in_force[0] != wanted:
        raise NotReadyError(
            f"device '{options.device}' was asked for, but {in_force[0]} is in force"
        )
    nodes: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        operators = [node.op_type for node in part.get_nodes()]
        nodes[part.ep_name] += len(operators)
        if part.ep_name == PROVIDERS["cpu"] != wanted:
            elsewhere.update(operators)
    device_nodes = sum(n for name, n in nodes.items() if name != PROVIDERS["cpu"])
    if elsewhere and not device_nodes:
        raise NotReadyError(
            f"device '{options.device}' was asked for, but all {elsewhere.total()} nodes of "
            f"{path.name} run on the CPU: {_told(elsewhere)}"
        )
    if elsewhere:
        logger.warning(
            "nodes_on_cpu",
            extra={
                "path": str(path),
                "provider": wanted,
                "nodes_on_cpu": elsewhere.total(),
                "nodes": nodes.total(),
                "operators": _told(elsewhere),
                "effect": "what they exchange with the others is copied at each run",
            },
        )
    return Placement(wanted, MappingProxyType(dict(nodes)))


def _cuda(options: SessionOptions) -> dict[str, str]:
    values = {
        "device_id": str(options.device_id),
        "arena_extend_strategy": options.gpu_arena_strategy,
        "cudnn_conv_algo_search": options.convolution_search,
        "do_copy_in_default_stream": str(int(options.copy_in_default_stream)),
        "enable_cuda_graph": str(int(options.cuda_graphs)),
    }
    if options.gpu_memory_limit_bytes:
        values["gpu_mem_limit"] = str(options.gpu_memory_limit_bytes)
    return values | dict(options.cuda)


def _told(operators: Counter[str]) -> str:
    """The commonest operators, such as `Loop ×2, Shape`."""
    told = [
        f"{name} ×{count}" if count > 1 else name
        for name, count in operators.most_common(_MOST_OPERATORS_TOLD)
    ]
    return ", ".join([*told, "…"] if len(operators) > len(told) else told)
