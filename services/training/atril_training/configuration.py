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

MAX_IDLE_US = 60_000_000
"""How long a server keeps the state of a sequence that sends nothing."""

MAX_SEQUENCES = 1024
"""How many sequences of a model a server keeps at once."""


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
    kept = {name for pair in export.states for name in pair}
    for spec in export.inputs:
        if spec.name in kept:
            continue
        _shape(config.input.add(name=spec.name, data_type=_DATATYPES[spec.dtype]), spec)
    for output in export.outputs:
        if output.name in kept:
            continue
        declared = config.output.add(
            name=output.name,
            data_type=_DATATYPES[output.dtype],
            label_filename=LABELS_FILE if output.labelled else "",
        )
        _shape(declared, output)
    if export.states:
        _keep_states(config, export)
    else:
        config.dynamic_batching.SetInParent()  # present and empty: batching with its defaults
    # What a translator is for belongs to the whole, see `composition`.
    if export.task is not None and not isinstance(export.task, TranslationTask):
        write_task(config, export.task)
    return config


def _keep_states(config: ModelConfig, export: Export) -> None:
    """Let the server keep the states of sequences, from zeros on."""
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = MAX_IDLE_US
    batching.oldest.max_candidate_sequences = MAX_SEQUENCES
    inputs = {spec.name: spec for spec in export.inputs}
    for input_name, output_name in export.states:
        spec = inputs[input_name]
        state = batching.state.add(
            input_name=input_name,
            output_name=output_name,
            data_type=_DATATYPES[spec.dtype],
            dims=_dims(spec),
        )
        state.initial_state.add(
            name="zeros", data_type=_DATATYPES[spec.dtype], dims=_dims(spec), zero_data=True
        )


def _shape(
    declared: model_config_pb2.ModelInput | model_config_pb2.ModelOutput,
    spec: TensorSpec | OutputSpec,
) -> None:
    """Declare a shape; Triton knows none without a dimension, so [B] is [B, 1] to callers."""
    declared.dims.extend(_dims(spec) or [1])
    if not _dims(spec):
        declared.reshape.SetInParent()


def _dims(spec: TensorSpec | OutputSpec) -> list[int]:
    return [_FREE if isinstance(dim, str) else dim for dim in spec.dims[1:]]
