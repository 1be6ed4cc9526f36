"""What a configuration declares of a model's tensors, held against the model's own graph.

What it leaves out is completed from the graph as Triton's ONNX Runtime back end does it.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

from atril_common.errors import NotReadyError
from atril_common.repository import CONFIG_FILE
from atril_common.tensors import TensorSpec

DEFAULT_MAX_BATCH_SIZE = 4
"""Of a model that can be batched and has no configuration; Triton's default."""

BACKEND = "onnxruntime"

Shape = tuple[int, ...]


class Declaration(NamedTuple):
    """The inputs or outputs of a model as its callers see them.

    `graph_shapes` and `caller_shapes` have the tensors of which the graph and the callers see
    different shapes, without the batch dimension.
    """

    specs: tuple[TensorSpec, ...]
    graph_shapes: dict[str, Shape]
    caller_shapes: dict[str, Shape]


def completed(
    config: ModelConfig,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    default_max_batch_size: int,
) -> ModelConfig:
    """A configuration with the inputs and outputs of the graph where it declares none.

    A configuration that declares both is taken as it is. Else a model whose every tensor has a
    variable first dimension is batched, dynamically unless the configuration says otherwise.

    Args:
        config: as written; it is not changed.
        inputs: of the graph.
        outputs: of the graph.
        default_max_batch_size: of a model that can be batched and does not say how much.
    """
    if config.input and config.output:
        return config
    complete = ModelConfig()
    complete.CopyFrom(config)
    complete.backend = complete.backend or BACKEND
    if not complete.max_batch_size and _is_batched(config, (*inputs, *outputs)):
        complete.max_batch_size = default_max_batch_size
    if complete.max_batch_size > 1 and complete.WhichOneof("scheduling_choice") is None:
        complete.dynamic_batching.SetInParent()
    leading = 1 if complete.max_batch_size else 0
    if not config.input:
        complete.input.extend(
            ModelInput(name=s.name, data_type=_data_type(s), dims=s.shape[leading:]) for s in inputs
        )
    if not config.output:
        complete.output.extend(
            ModelOutput(name=s.name, data_type=_data_type(s), dims=s.shape[leading:])
            for s in outputs
        )
    return complete


def declared(
    kind: str,
    tensors: Iterable[ModelInput] | Iterable[ModelOutput],
    graph: tuple[TensorSpec, ...],
    max_batch_size: int,
) -> Declaration:
    """The tensors that a configuration declares, each checked against the graph.

    Raises:
        NotReadyError: a tensor differs from the graph's, or an input is not declared.
    """
    in_graph = {spec.name: spec for spec in graph}
    batch = (-1,) if max_batch_size else ()
    found = Declaration((), {}, {})
    specs = []
    for tensor in tensors:
        datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        datatype = "BYTES" if datatype == "STRING" else datatype
        shape = inner = tuple(tensor.dims)
        if tensor.HasField("reshape"):
            inner = _reshaped(kind, tensor)
            found.graph_shapes[tensor.name] = inner
            found.caller_shapes[tensor.name] = shape
        spec = in_graph.get(tensor.name)
        if spec is None:
            raise NotReadyError(
                f"{kind} '{tensor.name}' is in {CONFIG_FILE} but not in the model, which has "
                f"{sorted(in_graph)}"
            )
        if spec.datatype != datatype or not _fits((*batch, *inner), spec.shape):
            raise NotReadyError(
                f"{kind} '{tensor.name}' is {datatype} {[*batch, *inner]} in {CONFIG_FILE} but "
                f"{spec.datatype} {list(spec.shape)} in the model"
            )
        specs.append(TensorSpec(tensor.name, datatype, (*batch, *shape)))
    missing = sorted(in_graph.keys() - {s.name for s in specs}) if kind == "input" else []
    if missing or not specs:
        raise NotReadyError(f"{CONFIG_FILE} does not declare {kind} {missing or sorted(in_graph)}")
    return found._replace(specs=tuple(specs))


def _reshaped(kind: str, tensor: ModelInput | ModelOutput) -> Shape:
    """The shape that the graph gets in place of the declared one, without the batch dimension.

    Raises:
        NotReadyError: the two do not hold the same number of elements, or leave it open.
    """
    outer, inner = tuple(tensor.dims), tuple(tensor.reshape.shape)
    free = outer.count(-1), inner.count(-1)
    fixed = [math.prod(d for d in dims if d != -1) for dims in (outer, inner)]
    if free not in ((0, 0), (1, 1)) or fixed[0] != fixed[1]:
        raise NotReadyError(
            f"{kind} '{tensor.name}' cannot be reshaped from {list(outer)} to {list(inner)}: both "
            f"must hold as many elements, with at most one variable dimension each"
        )
    return inner


def _is_batched(config: ModelConfig, graph: tuple[TensorSpec, ...]) -> bool:
    """Whether the first dimension of the graph's tensors is the batch.

    Where some tensors are declared, they say it: by whether they leave the first dimension out.
    """
    if not all(spec.shape and spec.shape[0] == -1 for spec in graph):
        return False
    ranks = {spec.name: len(spec.shape) for spec in graph}
    tensors = [*config.input, *config.output]
    return all(len(tensor.dims) < ranks.get(tensor.name, 0) for tensor in tensors)


def _data_type(spec: TensorSpec) -> model_config_pb2.DataType:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return model_config_pb2.DataType.Value(f"TYPE_{name}")


def _fits(declared_shape: Shape, graph: Shape) -> bool:
    """Whether every shape that the configuration allows is one that the graph takes."""
    return len(declared_shape) == len(graph) and all(
        g in (-1, d) for d, g in zip(declared_shape, graph, strict=True)
    )
