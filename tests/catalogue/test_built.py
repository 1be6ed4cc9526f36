"""`make catalogue`: every architecture is trained, held to its bar, proven and published."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from atril_common.model_config import read_config
from atril_common.repository import list_models
from atril_common.tasks import declared_task, read_task
from atril_models import CATALOGUE
from atril_training.catalogue.cards import latest_card
from atril_training.recipes import find_recipe
from atril_training.recipes.recipe import QualityBar

from .conftest import Built

pytestmark = pytest.mark.slow

every_architecture = pytest.mark.parametrize("name", list(CATALOGUE))


def _card(built: Built, name: str) -> Mapping[str, Any]:
    found = latest_card(built.repository, name)
    assert found is not None
    return found[1]


def _part(built: Built, model: str) -> dict[str, Any]:
    card: dict[str, Any] = orjson.loads((built.repository / model / "1" / "card.json").read_bytes())
    return card


@every_architecture
def test_architecture_is_published_with_its_parts(built: Built, name: str) -> None:
    """The card lists all models of the training, and each of them is there."""
    parts = _card(built, name)["published_with"]
    assert parts
    for part in parts:
        assert (built.repository / part / "config.pbtxt").is_file()
        graphs = {path.name for path in (built.repository / part / "1").glob("*.onnx")}
        assert graphs == {"model.onnx"} or {"encoder.onnx", "decoder.onnx"} <= graphs
        assert _part(built, part)["published_with"] == parts


@every_architecture
def test_bars_are_met_and_baselines_are_not_enough(built: Built, name: str) -> None:
    """Each bar of the recipe is in the card, met by the model and missed by the baseline."""
    metrics = _card(built, name)["metrics"]
    bars = [QualityBar(**metric["bar"]) for metric in metrics]
    assert bars == list(find_recipe(name).bars)
    for metric, bar in zip(metrics, bars, strict=True):
        assert bar.is_met(metric["value"])
        assert not bar.is_met(metric["baseline_value"])


@every_architecture
def test_parity_is_proven_at_many_sizes(built: Built, name: str) -> None:
    """Every graph agrees with PyTorch at three or more sizes of each free dimension."""
    for part in _card(built, name)["published_with"]:
        cases = _part(built, part)["parity"]["cases"]
        for dimension in cases[0]["sizes"]:
            sizes = {case["sizes"][dimension] for case in cases}
            assert len(sizes) >= 3
            assert 1 in sizes
        for case in cases:
            for output in case["outputs"]:
                assert output["max_abs"] <= output["tolerance"] <= 1e-4
                assert output["argmax_agreement"] in (None, 1.0)


@every_architecture
def test_task_can_be_learnt_from_the_configuration(built: Built, name: str) -> None:
    """Some model of the training declares a task whose facts can be read."""
    configs = [
        read_config(built.repository / part / "config.pbtxt")
        for part in _card(built, name)["published_with"]
    ]
    declared = [config for config in configs if declared_task(config)]
    assert declared
    assert all(read_task(config) is not None for config in declared)


def test_nothing_else_is_published(built: Built) -> None:
    """The repository holds the architectures and their parts, and no leftovers."""
    expected = {part for name in CATALOGUE for part in _card(built, name)["published_with"]}
    assert set(list_models(built.repository)) == expected
    assert not [path for path in built.repository.iterdir() if path.name.startswith(".")]
