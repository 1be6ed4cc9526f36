"""The task facts in a configuration are what was written, or the error says what is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError
from atril_common.model_config import (
    CLASSIFICATION_KEY,
    IMAGE_KEY,
    TASK_KEY,
    ClassificationTask,
    ImageInput,
    config_to_text,
    read_config,
    read_task,
    write_task,
)

TASK = ClassificationTask(
    ImageInput("image", 28, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "probabilities", ("a", "b")
)


def written(task: ClassificationTask = TASK) -> ModelConfig:
    """A configuration that declares the task."""
    config = ModelConfig(name="lenet5", max_batch_size=8)
    write_task(config, task)
    return config


def test_a_task_survives_the_file(tmp_path: Path) -> None:
    """What is written to `config.pbtxt` is what is read from it."""
    path = tmp_path / "config.pbtxt"
    path.write_text(config_to_text(written()), encoding="utf-8")
    config = read_config(path)
    assert config == written()
    assert read_task(config) == TASK


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_label_survives(labels: list[str]) -> None:
    """Labels may be any text."""
    task = ClassificationTask(TASK.image, "probabilities", tuple(labels))
    assert read_task(written(task)) == task


def test_no_task_is_none() -> None:
    """A model without a declaration, or with another task, has no classification task."""
    assert read_task(ModelConfig(name="plain")) is None
    other = ModelConfig(name="other")
    other.parameters[TASK_KEY].string_value = "translation"
    assert read_task(other) is None
    assert TASK_KEY not in ModelConfig(name="plain").parameters


@pytest.mark.parametrize("key", [IMAGE_KEY, CLASSIFICATION_KEY])
@pytest.mark.parametrize(
    ("value", "match"),
    [("", "is not JSON"), ("{", "is not JSON"), ("[]", "not a JSON object"), ("{}", "malformed")],
)
def test_malformed_facts_name_the_key(key: str, value: str, match: str) -> None:
    """A declared task whose facts are wrong is refused with the key's name."""
    config = written()
    config.parameters[key].string_value = value
    with pytest.raises(InvalidInputError, match=match) as caught:
        read_task(config)
    assert key in str(caught.value)
    assert "lenet5" in str(caught.value)


def test_text_that_is_no_configuration_names_the_line(tmp_path: Path) -> None:
    """The error of a bad file says where it is."""
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "x"\nmax_batch_size: many', encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"config\.pbtxt: not a model configuration: 2:"):
        read_config(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file is not a configuration."""
    path = tmp_path / "config.pbtxt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not a model configuration"):
        read_config(path)


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
    assert TASK.image.channels == 3
