"""From a trained classifier to an ONNX file that says nothing of the machine it was made on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from atril_common.errors import RefusedError
from atril_models import ClassifierWithProbabilities

OPSET = 20
IR_VERSION = 10
"""The newest that ONNX Runtime 1.22, the oldest that Atril supports, accepts without a doubt."""

INPUT_NAME = "image"
LOGITS_NAME = "logits"
PROBABILITIES_NAME = "probabilities"
BATCH_DIMENSION = "batch"


def export_classifier(
    module: ClassifierWithProbabilities, image_shape: tuple[int, int, int]
) -> bytes:
    """Export with a free batch dimension, constants folded and weights inside the file.

    The same weights give the same bytes with the same versions of torch and onnx.

    Shape:
        input `image` [batch, *image_shape] float32; outputs `logits` and `probabilities`
        [batch, classes] float32.

    Raises:
        ValueError: the module, or a part of it, is in training mode.
        RefusedError: the exported graph is not valid ONNX, or its batch dimension is fixed.
    """
    if any(part.training for part in module.modules()):
        raise ValueError("export needs the module in eval mode: call .eval() first")
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            (torch.zeros(2, *image_shape),),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[LOGITS_NAME, PROBABILITIES_NAME],
            dynamic_shapes={INPUT_NAME: {0: torch.export.Dim(BATCH_DIMENSION)}},
            opset_version=OPSET,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None  # None only without dynamo
    model = program.model_proto
    model.ir_version = IR_VERSION
    _strip_metadata(model)
    check_graph(model)
    return model.SerializeToString(deterministic=True)


def check_graph(model: onnx.ModelProto) -> None:
    """Check that a model is valid ONNX and that every input and output has a free batch dimension.

    Raises:
        RefusedError: it is not; the text says what is wrong.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise RefusedError(f"the exported graph is not valid ONNX: {err}") from err
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or not dims[0].dim_param:
            got = [dim.dim_param or dim.dim_value for dim in dims]
            raise RefusedError(
                f"the exported graph's '{value.name}' has shape {got}: its batch dimension is fixed"
            )


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: stack traces with paths, class names."""
    graph = model.graph
    del graph.value_info[:]
    described: list[Any] = [
        model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer,
    ]  # fmt: skip
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
            # torch.export copies its own tree specifications, which warns of their own deprecation
            warnings.filterwarnings(
                "ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
            )
            yield
    finally:
        logger.setLevel(level)
