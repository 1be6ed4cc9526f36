"""From recipe to repository, and what is refused on the way."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch

from atril_common.errors import InvalidInputError, RefusedError
from atril_common.model_config import read_config, read_task
from atril_models import CATALOGUE, count_layers
from atril_training.card import build_card
from atril_training.datasets import ImageDataset, file_source
from atril_training.parity import BatchParity, ParityBar, ParityRecord
from atril_training.pipeline import (
    PublishedModel,
    require_accuracy,
    require_parity,
    train_and_publish,
)
from atril_training.recipes import QualityBar, Recipe
from atril_training.trainer import EpochRecord, Evaluation, SilentReporter, TrainingRun

NO_FILES = file_source(Path("not read"))


class _NeverTrained:
    """A reporter that fails the test when training starts."""

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        pytest.fail("training started")

    def epoch_finished(self, record: EpochRecord) -> None:
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
    assert published.path.name == "1"
    assert {p.name for p in published.path.iterdir()} == {"model.onnx", "card.json"}
    config = read_config(published.path.parent / "config.pbtxt")
    task = read_task(config)
    assert task is not None
    assert task.labels == tuple("0123456789")
    assert (published.path.parent / "labels.txt").read_text().split() == list("0123456789")


def test_card_tells_how_to_judge_and_repeat(published: PublishedModel, recipe: Recipe) -> None:
    """Recipe, data, versions, figures with their bar, layers and parity are all in it."""
    card = orjson.loads((published.path / "card.json").read_bytes())
    assert (card["architecture"], card["lecture_section"]) == ("lenet5", "3.2.6")
    assert card["parameters"] == 60_850
    assert card["seed"] == recipe.seed
    assert card["recipe"]["batch_size"] == recipe.batch_size
    assert card["data"]["examples"] == {"train": 1295, "validation": 143, "test": 359}
    assert set(card["data"]["checksums_sha256"]) == {"scikit-learn digits"}
    assert card["packages"]["torch"] == torch.__version__
    assert card["device"]["threads"] == recipe.threads
    (metric,) = card["metrics"]
    assert metric["name"] == "test_accuracy"
    assert metric["minimum"] == recipe.bar.minimum
    assert metric["value"] == pytest.approx(1 - metric["errors"] / metric["examples"])
    assert [layer["name"] for layer in card["layers"]] == [
        "c1", "s2", "c3", "s4", "c5", "f6", "output",
    ]  # fmt: skip
    assert [batch["batch_size"] for batch in card["parity"]["batches"]] == [1, 7, 64]
    assert len(card["training"]["epochs"]) == recipe.epochs
    assert set(card["files_sha256"]) == {"model.onnx", "config.pbtxt", "labels.txt"}


def test_card_counts_layers_like_the_model(
    recipe: Recipe, digits: ImageDataset, run: TrainingRun
) -> None:
    """The table in the card is that of the trained network."""
    card = build_card(recipe, digits, run, ParityRecord(ParityBar(), ()))
    rows = count_layers(run.network, CATALOGUE["lenet5"].image.shape)
    assert card["parameters"] == sum(row.parameters for row in rows)
    layers = card["layers"]
    assert isinstance(layers, list)
    assert [layer["connections"] for layer in layers] == [row.connections for row in rows]


def test_inaccurate_model_is_not_published(recipe: Recipe, tmp_path: Path) -> None:
    """The error has the figure, its bar and the distance, and the repository is not even made."""
    strict = replace(recipe, epochs=1, bar=QualityBar("test_accuracy", 0.999))
    with pytest.raises(
        RefusedError, match=r"test_accuracy is 0\.\d{4}, the bar is 0\.9990, short by 0\.\d{4}"
    ):
        train_and_publish(
            strict,
            repository=tmp_path / "repository",
            model_name="toy",
            source=NO_FILES,
            reporter=SilentReporter(),
        )
    assert not (tmp_path / "repository").exists()


def test_accuracy_at_the_bar_is_enough(recipe: Recipe, run: TrainingRun) -> None:
    """The bar is the least that passes."""
    at_bar = replace(run, test=Evaluation(loss=0.1, errors=7, examples=10))
    require_accuracy(recipe, at_bar)
    with pytest.raises(RefusedError, match=r"is 0\.2000, the bar is 0\.3000, short by 0\.1000"):
        require_accuracy(recipe, replace(run, test=Evaluation(loss=0.1, errors=8, examples=10)))


def test_model_out_of_parity_is_not_published() -> None:
    """The error has every figure that misses its bar."""
    off = BatchParity(7, 70, 0.5, 0.1, 0.25, 0.1, 0.9)
    with pytest.raises(
        RefusedError,
        match=r"toy: ONNX Runtime .*logits .* 0\.5 at batch 7.*probabilities .*0\.25.*0\.9000",
    ):
        require_parity("toy", ParityRecord(ParityBar(), (off,)))


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
    published: PublishedModel, recipe: Recipe
) -> None:
    """Another normalisation cannot become a version of a model that is there."""
    other = replace(recipe, mean=(0.5,))
    with pytest.raises(RefusedError, match=r"does not fit .*task is"):
        train_and_publish(
            other,
            repository=published.path.parents[1],
            model_name="toy",
            source=NO_FILES,
            reporter=_NeverTrained(),
        )
