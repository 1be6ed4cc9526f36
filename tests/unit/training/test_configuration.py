"""The config.pbtxt of a classifier."""

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, ModelConfig

from atril_common.model_config import (
    ClassificationTask,
    ImageInput,
    config_to_text,
    read_task,
)
from atril_training.configuration import classifier_config


@pytest.fixture
def task(image: ImageInput) -> ClassificationTask:
    """What LeNet-5 does."""
    return ClassificationTask(image, "probabilities", tuple("0123456789"))


def test_configuration_is_one_that_triton_reads(task: ClassificationTask) -> None:
    """Platform, batching, names, types and shapes, as Triton's documentation writes them."""
    config = classifier_config("lenet5", task)
    del config.parameters["atril.task"]
    del config.parameters["atril.image"]
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


def test_task_can_be_learnt_from_the_text(task: ClassificationTask) -> None:
    """What serving reads back is what training wrote."""
    text = config_to_text(classifier_config("lenet5", task))
    assert read_task(text_format.Parse(text, ModelConfig())) == task


def test_configuration_agrees_with_the_exported_graph(
    task: ClassificationTask, onnx_model: bytes
) -> None:
    """Same names, types and shapes on both sides, the batch left out of the configuration."""
    config = classifier_config("lenet5", task)
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
