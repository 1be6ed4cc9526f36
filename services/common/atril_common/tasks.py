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
CLASSIFICATION = "classification"

TEXT_INPUT, TEXT_OUTPUT = "text_input", "text_output"
"""Tensors of a model that takes a text and answers texts, named as Triton's language models do."""
SCORE, FINISHED = "score", "finished"
"""Of each text: by what it is ranked, and whether it was written to its end."""
SOURCE_TOKENS, TARGET_TOKENS, ATTENTION = "source_tokens", "target_tokens", "attention"
"""Of an explained text: the tokens read and written, and a weight for each pair of them."""


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


@dataclass(frozen=True, slots=True)
class AutoencoderParts:
    """The encoder and the decoder of an autoencoder, which are models of their own.

    Their names are the whole's with a suffix. The encoder takes the whole's input; of its outputs
    the first is what the decoder takes, `[batch, *code_shape]`. The decoder's output is a picture
    as the whole's is.
    """

    encoder_suffix: str
    encoder_outputs: tuple[str, ...]
    decoder_suffix: str
    decoder_input: str
    decoder_output: str
    code_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReconstructionTask:
    """A picture again, from its code.

    `output` names the output of the input's shape, in the units of the normalised input; it may
    leave the range of a picture and is to be clipped.
    """

    input: ImageInput
    output: str
    parts: AutoencoderParts


@dataclass(frozen=True, slots=True)
class DenoisingTask:
    """A picture without its noise.

    `output` is as that of `ReconstructionTask`. `noise` and `strength` say what the model has
    learnt to remove: Gaussian of this deviation, or salt-and-pepper or masking of this share of
    the values. Where `any_size`, the model takes a picture of any height and width as it is, and
    those of `input` are only the ones that it has learnt on.
    """

    input: ImageInput
    output: str
    noise: Literal["gaussian", "salt-and-pepper", "masking"]
    strength: float
    any_size: bool = False
    parts: AutoencoderParts | None = None


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """New pictures, decoded from latent vectors that are drawn from N(0, I).

    `output` is as that of `ReconstructionTask`. The encoder answers mean and log variance of the
    latent vector of a picture.
    """

    input: ImageInput
    output: str
    parts: AutoencoderParts


@dataclass(frozen=True, slots=True)
class TranslationTask:
    """Text of one language in another, written one token at a time.

    The model is two graphs, or three, whose names are one name with a suffix each: the encoder,
    one step of the decoder, and where it is not None one step that also answers `attention`, the
    weights of the source's positions. What they take and give is in
    `atril_models.translation.contract`.

    Args:
        source_language, target_language: ISO 639-1 codes.
        tokenizer: of both languages, in the JSON of the `tokenizers` library.
        pad_id, bos_id, eos_id: what fills a source up, begins a target, and ends both.
        max_source_length, max_target_length: in tokens with the end token; what is longer was
            never learnt.
        beam, length_penalty: of the search that the model was judged with.
    """

    encoder_suffix: str
    decoder_suffix: str
    explainer_suffix: str | None
    source_language: str
    target_language: str
    tokenizer: str
    pad_id: int
    bos_id: int
    eos_id: int
    max_source_length: int
    max_target_length: int
    beam: int
    length_penalty: float


@dataclass(frozen=True, slots=True)
class ForecastTask:
    """How a series goes on.

    `output` names the output `[batch, horizon]`, the next observations, and `deviation` one of the
    same shape with the standard deviation of their errors; input and outputs are in the unit of
    the one feature. The window may have any length; `window` is the one that the model has learnt
    on. The model whose name has `step_suffix` takes one `observation` at a time, and its `state_*`
    inputs from its `next_state_*` outputs.
    """

    input: SequenceInput
    output: str
    deviation: str
    window: int
    horizon: int
    step_suffix: str


@dataclass(frozen=True, slots=True)
class CompletionTask:
    """A text, written on character by character.

    The whole model takes `tokens` `[batch, length]`, places in the `alphabet`, and its `output` has
    the logits of the character after each. The model whose name has `step_suffix` takes one
    `token` and answers the logits of the next; what it remembers is in `state_*` inputs, replaced
    by `next_state_*` outputs, and in `cache_*` inputs, buffers into which the caller writes each
    `update_*` output at the place `cache_length`. `context` is the most characters that can be
    read, None where there is no limit.
    """

    alphabet: str
    output: str
    step_suffix: str
    context: int | None


Task = (
    ClassificationTask
    | RegressionTask
    | ReconstructionTask
    | DenoisingTask
    | GenerationTask
    | TranslationTask
    | ForecastTask
    | CompletionTask
)

TASKS: Mapping[str, type[Task]] = MappingProxyType(
    {
        CLASSIFICATION: ClassificationTask,
        "regression": RegressionTask,
        "reconstruction": ReconstructionTask,
        "denoising": DenoisingTask,
        "generation": GenerationTask,
        "translation": TranslationTask,
        "forecast": ForecastTask,
        "completion": CompletionTask,
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
