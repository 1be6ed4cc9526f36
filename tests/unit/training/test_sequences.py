"""Courses that classify sequences: what they learn, how they are judged, what is exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.tasks import ClassificationTask, SequenceInput
from atril_models import Network
from atril_training.datasets import file_source
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import find_recipe
from atril_training.recipes.sequential import SequenceClassificationRecipe
from atril_training.tasks.sequences import SequenceClassificationCourse, evaluate

NOWHERE = file_source(Path("not read"))


def _course(architecture: str, epochs: int) -> SequenceClassificationCourse:
    recipe = find_recipe(architecture)
    assert isinstance(recipe, SequenceClassificationRecipe)
    optimization = replace(recipe.optimization, epochs=epochs)
    return SequenceClassificationCourse.prepare(replace(recipe, optimization=optimization), NOWHERE)


@pytest.fixture(scope="module")
def course() -> SequenceClassificationCourse:
    """A simple recurrent network on the rows of digits; tests must not change it."""
    return _course("rnn", 8)


@pytest.fixture(scope="module")
def trained(course: SequenceClassificationCourse) -> Network:
    """A finished short training; tests must not change its network."""
    return train_course(course, SilentReporter(), "cpu")[0]


def test_a_short_training_meets_its_bars(
    course: SequenceClassificationCourse, trained: Network
) -> None:
    """A fifth of the recipe's epochs is enough, and the bars are beyond the nearest class mean."""
    require_quality(course.recipe, judge_course(course, trained))


def test_bars_fail_with_shuffled_targets(course: SequenceClassificationCourse) -> None:
    """A network that has learnt labels of other pictures is refused."""
    shuffled = course.with_shuffled_targets(1)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_accuracy is 0.*, the bar is at least"):
        require_quality(shuffled.recipe, judge_course(shuffled, network))


def test_rows_come_in_the_units_of_the_picture(
    course: SequenceClassificationCourse, trained: Network
) -> None:
    """The served network standardises grey levels itself."""
    rows = torch.full((1, 8, 8), course.units.mean[0])
    with torch.no_grad():
        logits = course.served(trained)(rows)
        torch.testing.assert_close(logits, trained(torch.zeros(1, 8, 8)))


def test_evaluation_counts_errors(course: SequenceClassificationCourse, trained: Network) -> None:
    """The accuracy is the share of pictures whose largest logit is the right one's."""
    split = course.dataset.test
    figures = evaluate(course.served(trained), split)
    with torch.no_grad():
        rows = torch.from_numpy(split.pixels[:, 0].astype(np.float32))
        answers = course.served(trained)(rows).argmax(dim=1).numpy()
    assert figures["errors"] == int((answers != split.targets).sum())
    assert figures["accuracy"] == pytest.approx(float(np.mean(answers == split.targets)))


@pytest.mark.parametrize("architecture", ["rnn", "rnn-skip", "bilstm"])
def test_export_takes_sequences_of_any_length(architecture: str) -> None:
    """Parity from one row to two and a half pictures, and a task that says what a row is."""
    course = _course(architecture, 1)
    torch.manual_seed(0)
    (export,) = course.exports(course.build().eval())
    graph = export_graph(export)
    assert measure_parity(export, graph).failures() == ()
    assert isinstance(export.task, ClassificationTask)
    assert isinstance(export.task.input, SequenceInput)
    assert len(export.task.input.features) == 8
    assert export.task.labels == tuple("0123456789")
    shape = onnx.load_from_string(graph).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["batch", "length", 8]


def test_options_follow_from_the_data(course: SequenceClassificationCourse) -> None:
    """Rows of eight pixels, ten digits, and the recipe's own."""
    assert course.options() == {"hidden": 64, "features": 8, "classes": 10}


def test_card_facts_count_the_splits(course: SequenceClassificationCourse) -> None:
    """All 1,797 pictures are in one split each."""
    assert sum(course.data.examples.values()) == 1_797
    assert "rows of a picture" in course.data.notes["sequence"]
