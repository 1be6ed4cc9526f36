"""`config.pbtxt` and the task facts in it.

The configuration is Triton's own message, read and written with the stubs that tritonclient ships.
What the gateway must know to offer a task travels in its `parameters` under keys `atril.*`, so that
it can be learnt over the protocol from any server, a real Triton included.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError

TASK_KEY = "atril.task"
CLASSIFICATION_KEY = "atril.classification"
IMAGE_KEY = "atril.image"
CLASSIFICATION = "classification"


def read_config(path: Path) -> ModelConfig:
    """Parse a `config.pbtxt`.

    Raises:
        InvalidInputError: the file is not a model configuration; the text gives line and column.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as err:
        raise InvalidInputError(f"{path.name}: not a model configuration: {err}") from err


def config_to_text(config: ModelConfig) -> str:
    """The text of a `config.pbtxt`."""
    return str(text_format.MessageToString(config))


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How a picture becomes an input tensor: resized, `(value / 255 - mean) / std`, CHW float32.

    `mean` and `std` have one entry a channel, in units of the full range 0 … 1. One channel is
    greyscale, three are RGB.
    """

    name: str
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 3."""
        return len(self.mean)

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise InvalidInputError(
                f"{IMAGE_KEY}: mean and std need 1 or 3 entries each, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if min(self.height, self.width) < 1 or min(self.std) <= 0:
            raise InvalidInputError(f"{IMAGE_KEY}: height, width and std must be positive")


@dataclass(frozen=True, slots=True)
class ClassificationTask:
    """What the classify task must know of a model.

    `output` names the output `[batch, len(labels)]` that holds probabilities.
    """

    image: ImageInput
    output: str
    labels: tuple[str, ...]


def write_task(config: ModelConfig, task: ClassificationTask) -> None:
    """Put a task's facts into a configuration's parameters."""
    image = task.image
    facts: dict[str, Any] = {
        IMAGE_KEY: {
            "name": image.name,
            "height": image.height,
            "width": image.width,
            "mean": image.mean,
            "std": image.std,
        },
        CLASSIFICATION_KEY: {"output": task.output, "labels": task.labels},
    }
    config.parameters[TASK_KEY].string_value = CLASSIFICATION
    for key, value in facts.items():
        config.parameters[key].string_value = orjson.dumps(value).decode()


def read_task(config: ModelConfig) -> ClassificationTask | None:
    """The task that a configuration declares, or None where it declares none.

    Raises:
        InvalidInputError: it declares one, but its facts are missing or malformed; the text names
        the key.
    """
    if TASK_KEY not in config.parameters:
        return None
    task = config.parameters[TASK_KEY].string_value
    if task != CLASSIFICATION:
        return None
    image = _facts(config, IMAGE_KEY)
    classification = _facts(config, CLASSIFICATION_KEY)
    try:
        return ClassificationTask(
            image=ImageInput(
                name=str(image["name"]),
                height=int(image["height"]),
                width=int(image["width"]),
                mean=tuple(float(v) for v in image["mean"]),
                std=tuple(float(v) for v in image["std"]),
            ),
            output=str(classification["output"]),
            labels=tuple(str(label) for label in classification["labels"]),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise InvalidInputError(
            f"model '{config.name}': malformed parameters {IMAGE_KEY} or {CLASSIFICATION_KEY}: "
            f"{err!r}"
        ) from err


def _facts(config: ModelConfig, key: str) -> dict[str, Any]:
    try:
        value = orjson.loads(config.parameters[key].string_value)
    except orjson.JSONDecodeError as err:
        raise InvalidInputError(
            f"model '{config.name}': parameter {key} is not JSON: {err}"
        ) from err
    if not isinstance(value, dict):
        raise InvalidInputError(f"model '{config.name}': parameter {key} is not a JSON object")
    return value
