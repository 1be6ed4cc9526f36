"""The `config.pbtxt` of an exported graph."""

import torch
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.repository import LABELS_FILE
from atril_common.tasks import TranslationTask, write_task
from atril_training.export import Export, OutputSpec, TensorSpec

_DATATYPES = {
    torch.float32: model_config_pb2.TYPE_FP32,
    torch.int64: model_config_pb2.TYPE_INT64,
    torch.bool: model_config_pb2.TYPE_BOOL,
}
_FREE = -1


def model_config(model_name: str, export: Export) -> ModelConfig:
    """What a server must know of a model: Triton's fields, and the task in `parameters`.

    The shapes leave out the batch, as Triton's configuration does where max_batch_size is not 0.
    """
    config = ModelConfig(
        name=model_name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=export.max_batch_size,
    )
    for spec in export.inputs:
        config.input.add(name=spec.name, data_type=_DATATYPES[spec.dtype], dims=_dims(spec))
    for output in export.outputs:
        config.output.add(
            name=output.name,
            data_type=_DATATYPES[output.dtype],
            dims=_dims(output),
            label_filename=LABELS_FILE if output.labelled else "",
        )
    config.dynamic_batching.SetInParent()  # present and empty: batching with its defaults
    # What a translator is for belongs to the whole, see `composition`.
    if export.task is not None and not isinstance(export.task, TranslationTask):
        write_task(config, export.task)
    return config


def _dims(spec: TensorSpec | OutputSpec) -> list[int]:
    return [_FREE if isinstance(dim, str) else dim for dim in spec.dims[1:]]
