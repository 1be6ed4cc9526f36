"""The task facts in a configuration are what was written, or the error says what is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError
from atril_common.model_config import config_to_text, read_config
from atril_common.tasks import (
    TASK_KEY,
    TASKS,
    AutoencoderParts,
    ClassificationTask,
    CompletionTask,
    DenoisingTask,
    FeaturesInput,
    ForecastTask,
    GenerationTask,
    ImageInput,
    ReconstructionTask,
    RegressionTask,
    SequenceInput,
    Task,
    TranslationTask,
    declared_task,
    facts_key,
    read_task,
    write_task,
)

IMAGE = ImageInput("image", 28, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
FEATURES = FeaturesInput("features", ("age", "bmi"))
PARTS = AutoencoderParts(
    encoder_suffix="-encoder",
    encoder_outputs=("mu", "log_variance"),
    decoder_suffix="-decoder",
    decoder_input="latent",
    decoder_output="reconstruction",
    code_shape=(20,),
)
EXAMPLES: dict[str, Task] = {
    "classification": ClassificationTask(IMAGE, "probabilities", ("a", "b")),
    "regression": RegressionTask(FEATURES, "prediction", "progression"),
    "reconstruction": ReconstructionTask(IMAGE, "reconstruction", PARTS),
    "denoising": DenoisingTask(IMAGE, "reconstruction", "gaussian", 0.5, any_size=True),
    "generation": GenerationTask(IMAGE, "reconstruction", PARTS),
    "translation": TranslationTask(
        encoder_suffix="-encoder",
        decoder_suffix="-decoder",
        explainer_suffix=None,
        source_language="en",
        target_language="es",
        tokenizer='{"model": {"vocab": {"\u0120ñ": 4}}}',
        pad_id=0,
        bos_id=1,
        eos_id=2,
        max_source_length=24,
        max_target_length=24,
        beam=1,
        length_penalty=0.0,
    ),
    "forecast": ForecastTask(
        SequenceInput("window", ("°C",)), "forecast", "deviation", 24, 3, "-step"
    ),
    "completion": CompletionTask("\n abc", "logits", "-step", 256),
}


def written(task: Task) -> ModelConfig:
    """A configuration that declares the task."""
    config = ModelConfig(name="toy", max_batch_size=8)
    write_task(config, task)
    return config


def test_every_task_has_an_example_here() -> None:
    """A new task is tested like the others."""
    assert set(EXAMPLES) == set(TASKS)


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_a_task_survives_the_file(name: str, tmp_path: Path) -> None:
    """What is written to `config.pbtxt` is what is read from it."""
    path = tmp_path / "config.pbtxt"
    path.write_text(config_to_text(written(EXAMPLES[name])), encoding="utf-8")
    config = read_config(path)
    assert config == written(EXAMPLES[name])
    assert read_task(config) == EXAMPLES[name]
    assert declared_task(config) == name


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_label_survives(labels: list[str]) -> None:
    """Labels may be any text."""
    task = ClassificationTask(IMAGE, "probabilities", tuple(labels))
    assert read_task(written(task)) == task


@pytest.mark.parametrize("source", [IMAGE, FEATURES], ids=["image", "features"])
def test_the_kind_of_input_survives(source: ImageInput | FeaturesInput) -> None:
    """A classifier of rows of numbers is not taken for one of pictures."""
    task = ClassificationTask(source, "probabilities", ("a", "b"))
    assert read_task(written(task)) == task


def test_no_task_is_none() -> None:
    """A model without a declaration, or with a task nobody knows, has none; asking adds nothing."""
    plain = ModelConfig(name="plain")
    assert read_task(plain) is None
    assert declared_task(plain) == ""
    other = ModelConfig(name="other")
    other.parameters[TASK_KEY].string_value = "divination"
    assert read_task(other) is None
    assert declared_task(other) == "divination"
    assert not plain.parameters


@pytest.mark.parametrize("name", list(EXAMPLES))
@pytest.mark.parametrize(
    ("value", "match"),
    [("", "Invalid JSON"), ("{", "Invalid JSON"), ("[]", "the value: "), ("{}", "Field required")],
)
def test_malformed_facts_name_the_key(name: str, value: str, match: str) -> None:
    """A declared task whose facts are wrong is refused with the parameter's name."""
    config = written(EXAMPLES[name])
    config.parameters[facts_key(name)].string_value = value
    with pytest.raises(InvalidInputError, match=match) as caught:
        read_task(config)
    assert facts_key(name) in str(caught.value)
    assert "toy" in str(caught.value)


def test_malformed_facts_name_the_field() -> None:
    """The error says where in the facts it is."""
    config = written(EXAMPLES["classification"])
    facts = config.parameters[facts_key("classification")]
    facts.string_value = facts.string_value.replace("28", '"tall"')
    with pytest.raises(
        InvalidInputError, match=r"input\.image\.height: Input should be a valid int"
    ):
        read_task(config)


def test_impossible_facts_name_model_and_key() -> None:
    """What the class itself refuses is told with the place it came from."""
    config = written(EXAMPLES["classification"])
    facts = config.parameters[facts_key("classification")]
    facts.string_value = facts.string_value.replace("28", "0")
    with pytest.raises(InvalidInputError, match=r"'toy'.*atril\.classification.*must be positive"):
        read_task(config)


@pytest.mark.parametrize(
    ("height", "width", "mean", "std", "match"),
    [
        (4, 4, (0.1, 0.2), (1.0, 1.0), "need 1 or 3 entries each, got 2 and 2"),
        (4, 4, (0.1,), (1.0, 1.0, 1.0), "need 1 or 3 entries each, got 1 and 3"),
        (0, 4, (0.1,), (1.0,), "must be positive"),
        (4, 0, (0.1,), (1.0,), "must be positive"),
        (4, 4, (0.1,), (0.0,), "must be positive"),
    ],
)
def test_an_impossible_input_is_refused(
    height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...], match: str
) -> None:
    """Sizes and deviations are positive, and channels are 1 or 3."""
    with pytest.raises(InvalidInputError, match=match):
        ImageInput("image", height, width, mean, std)


def test_channels_follow_the_mean() -> None:
    """There is one mean a channel."""
    assert IMAGE.channels == 3
