"""What a model is for, as its configuration declares it.

What the gateway must know to offer a task travels in the `parameters` of the model's configuration:
`atril.task` names the task, and `atril.<task>` holds its facts as JSON, in the fields of the class
of this module that bears the task's name. So they can be learnt over the protocol from any server,
a real Triton included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError

TASK_KEY = "atril.task"


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
    kind: Literal["image"] = "image"

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 3."""
        return len(self.mean)

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise InvalidInputError(
                f"image: mean and std need 1 or 3 entries each, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if min(self.height, self.width) < 1 or min(self.std) <= 0:
            raise InvalidInputError("image: height, width and std must be positive")


@dataclass(frozen=True, slots=True)
class FeaturesInput:
    """A row of named numbers, `[features]` float32, in their own units: the graph standardises."""

    name: str
    features: tuple[str, ...]
    kind: Literal["features"] = "features"


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """A sequence of rows of named numbers, `[length, features]` float32, in their own units."""

    name: str
    features: tuple[str, ...]
    kind: Literal["sequence"] = "sequence"


Input = Annotated[ImageInput | FeaturesInput | SequenceInput, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class ClassificationTask:
    """To which of the labels an input belongs.

    `output` names the output `[batch, len(labels)]` that holds probabilities.
    """

    input: Input
    output: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegressionTask:
    """A number for an input.

    `output` names the output `[batch, 1]`, which is in the units of `target`.
    """

    input: Input
    output: str
    target: str


Task = ClassificationTask | RegressionTask

TASKS: Mapping[str, type[Task]] = MappingProxyType(
    {
        "classification": ClassificationTask,
        "regression": RegressionTask,
    }
)
"""The tasks by the name that a configuration gives them."""

_ADAPTERS: Mapping[str, TypeAdapter[Task]] = {
    name: TypeAdapter(kind) for name, kind in TASKS.items()
}


def write_task(config: ModelConfig, task: Task) -> None:
    """Put a task's facts into a configuration's parameters."""
    name = next(name for name, kind in TASKS.items() if isinstance(task, kind))
    config.parameters[TASK_KEY].string_value = name
    facts = _ADAPTERS[name].dump_json(task).decode()
    config.parameters[facts_key(name)].string_value = facts


def read_task(config: ModelConfig) -> Task | None:
    """The task that a configuration declares, or None where it declares none that we know.

    Raises:
        InvalidInputError: it declares one, but its facts are missing or malformed; the text names
            the key and the field.
    """
    name = declared_task(config)
    if name not in TASKS:
        return None
    key = facts_key(name)
    try:
        task = _ADAPTERS[name].validate_json(_text(config, key))
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "the value"
        raise InvalidInputError(
            f"model '{config.name}': malformed parameter {key}: {field}: {first['msg']}"
        ) from err
    except InvalidInputError as err:
        raise InvalidInputError(f"model '{config.name}': malformed parameter {key}: {err}") from err
    return task


def declared_task(config: ModelConfig) -> str:
    """The name of the task that a configuration declares; empty where it declares none."""
    return _text(config, TASK_KEY)


def facts_key(task_name: str) -> str:
    """The parameter that holds a task's facts."""
    return f"atril.{task_name}"


def _text(config: ModelConfig, key: str) -> str:
    # Asking a protobuf map for a key that it lacks would add it.
    return str(config.parameters[key].string_value) if key in config.parameters else ""
