"""From recipe to repository, and what is refused on the way."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch

from atril_common.errors import InvalidInputError, RefusedError
from atril_common.model_config import read_config
from atril_common.tasks import ClassificationTask, read_task
from atril_models import Network, count_layers
from atril_training.card import Judgement, Training, build_card
from atril_training.datasets import file_source
from atril_training.fitting import SilentReporter
from atril_training.parity import CaseParity, OutputParity, ParityRecord
from atril_training.pipeline import (
    PublishedModel,
    require_parity,
    require_quality,
    train_and_publish,
)
from atril_training.recipes import Recipe, at_least
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.tasks.pictures import PictureClassificationCourse

NO_FILES = file_source(Path("not read"))


class _NeverTrained(SilentReporter):
    """A reporter that fails the test when training starts."""

    def stage_started(self, stage: str, epochs: int) -> None:
        pytest.fail("training started")


@pytest.fixture(scope="module")
def published(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> PublishedModel:
    """A model that has gone all the way."""
    return train_and_publish(
        recipe,
        repository=tmp_path_factory.mktemp("repository"),
        model_name="toy",
        source=NO_FILES,
        reporter=SilentReporter(),
    )


def test_published_model_is_complete(published: PublishedModel) -> None:
    """The version lies where the result says, with the labels and the task of the data set."""
    (path,) = published.paths
    assert path.name == "1"
    assert {p.name for p in path.iterdir()} == {"model.onnx", "card.json"}
    task = read_task(read_config(path.parent / "config.pbtxt"))
    assert isinstance(task, ClassificationTask)
    assert task.labels == tuple("0123456789")
    assert (path.parent / "labels.txt").read_text().split() == list("0123456789")


def test_card_tells_how_to_judge_and_repeat(published: PublishedModel, recipe: Recipe) -> None:
    """Recipe, data, versions, figures with bar and baseline, layers and parity are all in it."""
    card = orjson.loads((published.paths[0] / "card.json").read_bytes())
    assert (card["architecture"], card["lecture_section"]) == ("lenet5", "3.2.6")
    assert card["parameters"] == 60_850
    assert card["seed"] == recipe.seed
    assert card["recipe"]["optimization"]["batch_size"] == recipe.optimization.batch_size
    assert card["data"]["examples"] == {"train": 1164, "validation": 130, "test": 323, "tail": 180}
    assert set(card["data"]["checksums_sha256"]) == {"scikit-learn digits"}
    assert card["packages"]["torch"] == torch.__version__
    assert card["device"]["threads"] == recipe.threads
    (metric,) = card["metrics"]
    assert metric["name"] == "test_accuracy"
    assert metric["bar"]["bound"] == recipe.bars[0].bound
    assert metric["baseline_value"] == card["baselines"]["test: nearest class mean"] < 0.9
    assert metric["value"] == pytest.approx(1 - card["figures"]["test_errors"] / 323)
    assert [layer["name"] for layer in card["layers"]] == [
        "c1", "s2", "c3", "s4", "c5", "f6", "output",
    ]  # fmt: skip
    assert [case["sizes"]["batch"] for case in card["parity"]["cases"]] == [1, 7, 64]
    (stage,) = card["training"]["stages"]
    assert len(stage["epochs"]) == recipe.optimization.epochs
    assert card["size_bytes"] == (published.paths[0] / "model.onnx").stat().st_size
    assert card["latency"]["p50_ms"] > 0
    assert card["model"] == "toy"
    assert card["published_with"] == ["toy"]
    assert set(card["files_sha256"]) == {"model.onnx", "config.pbtxt", "labels.txt"}


def test_card_counts_layers_like_the_model(
    course: PictureClassificationCourse, trained: tuple[Network, Training]
) -> None:
    """The table in the card is that of the trained network."""
    network, training = trained
    judgement = Judgement({"test_accuracy": 1.0}, {"test: nearest class mean": 0.5})
    card = build_card(course, network, training, judgement)
    rows = count_layers(network, *network.example_inputs())
    assert card["parameters"] == sum(row.parameters for row in rows)
    layers = card["layers"]
    assert isinstance(layers, list)
    assert [layer["connections"] for layer in layers] == [row.connections for row in rows]


def test_inaccurate_model_is_not_published(
    recipe: PictureClassificationRecipe, tmp_path: Path
) -> None:
    """The error has the figure, its bar and the distance, and the repository is not even made."""
    strict = replace(
        recipe,
        optimization=replace(recipe.optimization, epochs=1),
        bars=(at_least("test_accuracy", 0.999, baseline="test: nearest class mean"),),
    )
    with pytest.raises(
        RefusedError,
        match=r"test_accuracy is 0\.\d{4}, the bar is at least 0\.9990, missed by 0\.\d{4}",
    ):
        train_and_publish(
            strict,
            repository=tmp_path / "repository",
            model_name="toy",
            source=NO_FILES,
            reporter=SilentReporter(),
        )
    assert not (tmp_path / "repository").exists()


def test_every_missed_bar_is_told(recipe: Recipe) -> None:
    """With two bars missed the error has both."""
    bars = tuple(at_least(name, 0.9, baseline="simple") for name in ("first", "second"))
    judgement = Judgement({"first": 0.8, "second": 0.7}, {"simple": 0.1})
    with pytest.raises(RefusedError, match=r"lenet5 on digits: first is 0\.8.*second is 0\.7"):
        require_quality(replace(recipe, bars=bars), judgement)


def test_model_out_of_parity_is_not_published() -> None:
    """The error has every figure that misses its bar."""
    off = OutputParity("logits", max_abs=0.5, max_rel=0.1, tolerance=1e-4, argmax_agreement=0.9)
    record = ParityRecord((CaseParity({"batch": 7}, 70, (off,)),))
    with pytest.raises(
        RefusedError, match=r"toy: ONNX Runtime .*logits .* 0\.5 at batch 7.*0\.9000"
    ):
        require_parity("toy", record)


def test_impossible_name_is_refused_before_training(recipe: Recipe, tmp_path: Path) -> None:
    """Nobody waits ten minutes to hear that the name has a slash in it."""
    with pytest.raises(InvalidInputError, match="'a/b' is not a model name"):
        train_and_publish(
            recipe,
            repository=tmp_path,
            model_name="a/b",
            source=NO_FILES,
            reporter=_NeverTrained(),
        )


def test_model_that_does_not_fit_is_refused_before_training(
    published: PublishedModel, recipe: PictureClassificationRecipe
) -> None:
    """Another normalisation cannot become a version of a model that is there."""
    with pytest.raises(RefusedError, match=r"does not fit .*task is "):
        train_and_publish(
            replace(recipe, mean=(0.5,)),
            repository=published.paths[0].parents[1],
            model_name="toy",
            source=NO_FILES,
            reporter=_NeverTrained(),
        )
