"""From a trained module to an ONNX file that says nothing of the machine it was made on."""

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from atril_common.errors import RefusedError
from atril_common.tasks import Task

OPSET = 20
IR_VERSION = 10
"""The newest that ONNX Runtime 1.22, the oldest that Atril supports, accepts without a doubt."""

BATCH_DIMENSION = "batch"

ELEMENT_TYPES: Mapping[torch.dtype, int] = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.int64: onnx.TensorProto.INT64,
    torch.bool: onnx.TensorProto.BOOL,
}
"""The element types that exported graphs use."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input of a graph.

    `dims` are numbers, or names of free dimensions; the first is `batch`. Dimensions of the same
    name have the same size.
    """

    name: str
    dims: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, slots=True)
class OutputSpec(TensorSpec):
    """An output of a graph, and how exactly ONNX Runtime must agree with PyTorch on it.

    `tolerance` is the largest absolute difference; with `same_argmax` the largest entry along the
    last dimension must be the same one, always. `labelled` outputs have one entry a label.
    """

    tolerance: float = 1e-4
    same_argmax: bool = False
    labelled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ParityCase:
    """Real inputs of one size: `sizes` has the size of each free dimension.

    Every batch in `batches` is one call; the examples of a case are those of all its batches.
    """

    sizes: Mapping[str, int]
    batches: Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """One graph to publish.

    Args:
        suffix: of the model's name: empty for the whole, such as `-encoder` for a part.
        module: in eval mode; takes `inputs` and answers `outputs`, in these orders.
        inputs: what the graph takes.
        outputs: what it answers.
        example: inputs to trace it with; every free dimension is at least 2 in it.
        cases: inputs to compare ONNX Runtime with PyTorch on: for each free dimension at least
            three sizes, 1 among them, and, but for the batch, one larger than in `example`.
        task: what the model is for; None for a part that no task calls by itself.
        labels: of the labelled outputs.
        max_batch_size: how many requests a server may put together.
        states: inputs, each with the output that replaces it, which the server is to keep for each
            sequence of requests; zeros at its start. Without any the callers keep them.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[OutputSpec, ...]
    example: tuple[Tensor, ...]
    cases: tuple[ParityCase, ...]
    suffix: str = ""
    task: Task | None = None
    labels: tuple[str, ...] = ()
    max_batch_size: int = 64
    states: tuple[tuple[str, str], ...] = ()


def batch_cases(
    inputs: tuple[Tensor, ...], sizes: Sequence[int] = (1, 7, 64)
) -> tuple[ParityCase, ...]:
    """A case for each batch size over the same examples; those that fill no batch are left out.

    Raises:
        ValueError: fewer examples than the largest batch.
    """
    count = len(inputs[0])
    if count < max(sizes):
        raise ValueError(f"parity needs at least {max(sizes)} examples, got {count}")
    return tuple(
        ParityCase(
            {BATCH_DIMENSION: size},
            [
                tuple(tensor[start : start + size] for tensor in inputs)
                for start in range(0, count - size + 1, size)
            ],
        )
        for size in sizes
    )


def export_graph(export: Export) -> bytes:
    """Export with free dimensions, constants folded and weights inside the file.

    The same weights give the same bytes with the same versions of torch and onnx.

    Raises:
        ValueError: the module, or a part of it, is in training mode.
        RefusedError: the exported graph is not valid ONNX, or its inputs and outputs are not those
            that were declared.
    """
    if any(part.training for part in export.module.modules()):
        raise ValueError("export needs the module in eval mode: call .eval() first")
    free = {
        dim: torch.export.Dim(dim)
        for spec in export.inputs
        for dim in spec.dims
        if isinstance(dim, str)
    }
    with _quiet_exporter():
        program = torch.onnx.export(
            export.module,
            export.example,
            dynamo=True,
            input_names=[spec.name for spec in export.inputs],
            output_names=[spec.name for spec in export.outputs],
            dynamic_shapes=_as_arguments(
                export.module,
                [
                    {axis: free[dim] for axis, dim in enumerate(spec.dims) if isinstance(dim, str)}
                    for spec in export.inputs
                ],
            ),
            opset_version=OPSET,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None  # None only without dynamo
    model = program.model_proto
    model.ir_version = IR_VERSION
    strip_metadata(model)
    check_graph(model, export.inputs, export.outputs)
    return model.SerializeToString(deterministic=True)


def _as_arguments(module: nn.Module, shapes: Sequence[Mapping[int, Any]]) -> tuple[Any, ...]:
    """One entry for each argument of `forward`: what its `*inputs` collects is one of them."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = sum(one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for one in parameters)
    collected = tuple(shapes[named:])
    return (*shapes[:named], collected) if collected else tuple(shapes)


def check_graph(
    model: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Check that a model is valid ONNX and takes and answers exactly what was declared.

    Raises:
        RefusedError: it is not or does not; the text says what is wrong.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise RefusedError(f"the exported graph is not valid ONNX: {err}") from err
    _check_values("input", model.graph.input, inputs)
    _check_values("output", model.graph.output, outputs)


def _check_values(side: str, values: Any, specs: Sequence[TensorSpec]) -> None:
    got_names, names = [value.name for value in values], [spec.name for spec in specs]
    if got_names != names:
        raise RefusedError(f"the exported graph has the {side}s {got_names}, expected {names}")
    for value, spec in zip(values, specs, strict=True):
        tensor = value.type.tensor_type
        got = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        fits = len(got) == len(spec.dims) and all(
            isinstance(have, str) if isinstance(want, str) else have == want
            for have, want in zip(got, spec.dims, strict=True)
        )
        if not fits:
            raise RefusedError(
                f"the exported graph's {side} '{spec.name}' has shape {got}, expected "
                f"{list(spec.dims)} with every named dimension free"
            )
        if tensor.elem_type != ELEMENT_TYPES[spec.dtype]:
            raise RefusedError(
                f"the exported graph's {side} '{spec.name}' has element type "
                f"{onnx.TensorProto.DataType.Name(tensor.elem_type)}, expected {spec.dtype}"
            )


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: stack traces with paths, class names."""
    graph = model.graph
    del graph.value_info[:]
    described: list[Any] = [
        model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer,
    ]  # fmt: skip
    for node in graph.node:  # bodies of loops
        for attribute in node.attribute:
            if attribute.HasField("g"):
                described += [attribute.g, *attribute.g.node]
    for part in described:
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's remarks about itself from the user; its errors still pass."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "torchvision is not installed", which we do not need
    try:
        with warnings.catch_warnings():
            # Where a warning is an error the exporter takes it for a failure, and tries again in a
            # way that silently fixes free dimensions.
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
