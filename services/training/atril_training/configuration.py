"""The `config.pbtxt` of an exported classifier."""

from tritonclient.grpc.model_config_pb2 import TYPE_FP32, ModelConfig

from atril_common.model_config import ClassificationTask, write_task
from atril_common.repository import LABELS_FILE
from atril_training.export import LOGITS_NAME, PROBABILITIES_NAME

MAX_BATCH_SIZE = 64


def classifier_config(model_name: str, task: ClassificationTask) -> ModelConfig:
    """What a server must know of a classifier: Triton's fields, and the task in `parameters`.

    The shapes leave out the batch, as Triton's configuration does where max_batch_size is not 0.
    """
    image = task.image
    config = ModelConfig(
        name=model_name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=MAX_BATCH_SIZE,
    )
    config.input.add(
        name=image.name, data_type=TYPE_FP32, dims=[image.channels, image.height, image.width]
    )
    classes = len(task.labels)
    config.output.add(name=LOGITS_NAME, data_type=TYPE_FP32, dims=[classes])
    config.output.add(
        name=PROBABILITIES_NAME, data_type=TYPE_FP32, dims=[classes], label_filename=LABELS_FILE
    )
    config.dynamic_batching.SetInParent()  # present and empty: batching with its defaults
    write_task(config, task)
    return config
