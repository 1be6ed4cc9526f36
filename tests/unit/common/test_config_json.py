"""A model configuration as JSON (H10)."""

import json

from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.oip.config_json import message_to_json


def full() -> ModelConfig:
    """A configuration with every kind of field."""
    config = ModelConfig(name="m", max_batch_size=8, backend="onnxruntime")
    config.input.add(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[-1, 1 << 40])
    config.output.add(name="y", data_type=model_config_pb2.TYPE_STRING, dims=[1])
    config.version_policy.specific.versions.extend([1, 1 << 40])
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, gpus=[0])
    config.dynamic_batching.max_queue_delay_microseconds = 1 << 40
    config.parameters["b"].string_value = "2"
    config.parameters["a"].string_value = "1"
    return config


def test_integers_of_64_bits_are_numbers() -> None:
    """H10: protobuf's own JSON writes them as strings, which Triton's clients do not expect."""
    message = json.loads(json.dumps(message_to_json(full())))
    assert message["input"][0]["dims"] == [-1, 1 << 40]
    assert message["version_policy"]["specific"]["versions"] == [1, 1 << 40]
    assert message["dynamic_batching"]["max_queue_delay_microseconds"] == 1 << 40


def test_enums_are_names_and_fields_are_those_of_the_message() -> None:
    """H10: `TYPE_FP32`, `KIND_GPU`, `max_batch_size`."""
    message = message_to_json(full())
    assert message["input"][0]["data_type"] == "TYPE_FP32"
    assert message["output"][0]["data_type"] == "TYPE_STRING"
    assert message["instance_group"][0]["kind"] == "KIND_GPU"
    assert message["max_batch_size"] == 8


def test_maps_are_objects_by_key() -> None:
    """H10: parameters."""
    parameters = message_to_json(full())["parameters"]
    assert parameters == {"a": {"string_value": "1"}, "b": {"string_value": "2"}}


def test_defaults_are_there_and_choices_not_made_are_not() -> None:
    """H10: plain fields always, sub-messages and oneofs only where they are set."""
    message = message_to_json(ModelConfig(name="m"))
    assert message["max_batch_size"] == 0
    assert message["input"] == []
    assert "dynamic_batching" not in message
    assert "sequence_batching" not in message
    assert message_to_json(full())["version_policy"].keys() == {"specific"}
