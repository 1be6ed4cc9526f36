"""A temporary repository of untrained networks: speed and memory do not depend on the weights."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.model_config import config_to_text
from atril_models import create_model
from atril_training.export import Export, OutputSpec, TensorSpec, export_graph

INPUT, OUTPUT = "image", "logits"


class Untrained(NamedTuple):
    """One network: its file, and the shape of a row, where -1 is free."""

    path: Path
    row: tuple[int, ...]


def export_untrained(folder: Path, name: str) -> Untrained:
    """Export a network: `lenet5`, `vgg11` (3×64×64), `vgg11-narrow` (3×32×32) or `convolution`.

    `convolution` has a free length: FP32 `[batch, 8, length]` to the same shape.
    """
    torch.manual_seed(0)
    network, row = _NETWORKS[name]()
    dims: tuple[int | str, ...] = ("batch", *("length" if d < 0 else d for d in row))
    example = torch.zeros((2, *(16 if d < 0 else d for d in row)))
    out = dims if "length" in dims else ("batch", network(example).shape[1])
    graph = export_graph(
        Export(
            module=network,
            inputs=(TensorSpec(INPUT, dims),),
            outputs=(OutputSpec(OUTPUT, out),),
            example=(example,),
            cases=(),
        )
    )
    path = folder / f"{name}.onnx"
    path.write_bytes(graph)
    return Untrained(path, row)


def serve_as(
    repository: Path,
    name: str,
    network: Untrained,
    max_batch_size: int,
    max_queue_size: int = 0,
) -> None:
    """Put a network into a repository; the file is shared with others made of it.

    `max_batch_size` 0 is a model that takes one request at a time, its batch a dimension as any;
    `max_queue_size` 0 leaves the limit to the server's settings.
    """
    session = ort.InferenceSession(str(network.path), providers=["CPUExecutionProvider"])
    config = ModelConfig(name=name, backend="onnxruntime", max_batch_size=max_batch_size)
    if max_batch_size:
        config.dynamic_batching.default_queue_policy.max_queue_size = max_queue_size
    for declared, values in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        for value in values:
            shape = value.shape[1:] if max_batch_size else value.shape
            dims = [d if isinstance(d, int) else -1 for d in shape]
            declared.add(name=value.name, data_type=model_config_pb2.TYPE_FP32, dims=dims)
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config_to_text(config))
    os.link(network.path, version / "model.onnx")


def rows_of(network: Untrained, count: int, length: int = 16) -> NDArray[np.float32]:
    """Rows to send, float32 `[count, *row]`."""
    shape = (count, *(length if d < 0 else d for d in network.row))
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _lenet5() -> tuple[nn.Module, tuple[int, ...]]:
    return create_model("lenet5").eval(), (1, 32, 32)


def _vgg11() -> tuple[nn.Module, tuple[int, ...]]:
    return create_model("vgg11", classes=10, side=64).eval(), (3, 64, 64)


def _vgg11_narrow() -> tuple[nn.Module, tuple[int, ...]]:
    return create_model("vgg11", classes=10, side=32, width=0.125).eval(), (3, 32, 32)


def _convolution() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Conv1d(8, 8, 3, padding=1).eval(), (8, -1)


_NETWORKS = {
    "lenet5": _lenet5,
    "vgg11": _vgg11,
    "vgg11-narrow": _vgg11_narrow,
    "convolution": _convolution,
}
