"""The config.pbtxt of an exported graph."""

import onnx
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, ModelConfig

from atril_common.model_config import config_to_text
from atril_common.tasks import read_task
from atril_training.configuration import model_config
from atril_training.export import Export, OutputSpec, TensorSpec


def test_configuration_is_one_that_triton_reads(export: Export) -> None:
    """Platform, batching, names, types and shapes, as Triton's documentation writes them."""
    config = model_config("lenet5", export)
    del config.parameters["atril.task"]
    del config.parameters["atril.classification"]
    expected = """
        name: "lenet5" platform: "onnxruntime_onnx" backend: "onnxruntime" max_batch_size: 64
        input { name: "image" data_type: TYPE_FP32 dims: [1, 32, 32] }
        output { name: "logits" data_type: TYPE_FP32 dims: [10] }
        output { name: "probabilities" data_type: TYPE_FP32 dims: [10]
                 label_filename: "labels.txt" }
        dynamic_batching { }
    """
    assert config == text_format.Parse(expected, ModelConfig())
    assert config.HasField("dynamic_batching")


def test_free_dimensions_and_types_of_a_sequence_model() -> None:
    """A free length is -1, a number a row has the one dimension that Triton wants, no task."""
    export = Export(
        module=torch.nn.Identity(),
        inputs=(
            TensorSpec("token", ("batch", "length"), torch.int64),
            TensorSpec("position", ("batch",), torch.int64),
        ),
        outputs=(OutputSpec("logits", ("batch", "length", 5)),),
        example=(),
        cases=(),
        max_batch_size=8,
    )
    expected = """
        name: "words" platform: "onnxruntime_onnx" backend: "onnxruntime" max_batch_size: 8
        input { name: "token" data_type: TYPE_INT64 dims: [-1] }
        input { name: "position" data_type: TYPE_INT64 dims: [1] reshape { } }
        output { name: "logits" data_type: TYPE_FP32 dims: [-1, 5] }
        dynamic_batching { }
    """
    assert model_config("words", export) == text_format.Parse(expected, ModelConfig())


def test_task_can_be_learnt_from_the_text(export: Export) -> None:
    """What serving reads back is what training wrote."""
    text = config_to_text(model_config("lenet5", export))
    assert read_task(text_format.Parse(text, ModelConfig())) == export.task


def test_configuration_agrees_with_the_exported_graph(export: Export, onnx_model: bytes) -> None:
    """Same names, types and shapes on both sides, the batch left out of the configuration."""
    config = model_config("lenet5", export)
    graph = onnx.load_from_string(onnx_model).graph
    in_graph = [
        (v.name, v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]
    types = {TYPE_FP32: onnx.TensorProto.FLOAT}
    in_config = [
        (v.name, types[v.data_type], [0, *v.dims]) for v in (*config.input, *config.output)
    ]
    assert in_config == in_graph
