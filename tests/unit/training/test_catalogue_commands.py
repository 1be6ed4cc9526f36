"""`atril catalogue`: what is listed, described and built."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from atril_models import CATALOGUE
from atril_training.catalogue.cards import latest_card
from atril_training.catalogue.commands import app
from atril_training.catalogue.describe import describe


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def test_list_has_every_architecture_with_its_section() -> None:
    """One line each, in the order of the catalogue, with the parameters of the published form."""
    result = _run()
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line[:1].strip()}
    assert [name for name in lines if name in CATALOGUE] == list(CATALOGUE)
    assert "3.2.6" in lines["lenet5"]
    assert "60,850" in lines["lenet5"]
    assert "test_accuracy ≥ 0.97" in lines["lenet5"]


def test_show_has_the_layers_of_the_lecture(tmp_path: Path) -> None:
    """Section, formula, shapes, parameters, multiply-adds and connections of every layer."""
    result = _run("show", "lenet5", "--repository", str(tmp_path))
    assert result.exit_code == 0
    assert "lecture 3.2.6" in result.stdout
    assert "connected" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["c3", "TableConv2d", "16×10×10", "1,516", "150,000", "151,600"] in rows
    assert ["all", "60,850", "328,096", "340,918"] in rows
    assert "recipe on digits" in result.stdout
    assert "recipe on mnist" in result.stdout
    assert "no published version" in result.stdout


def test_largest_network_is_described_without_being_built() -> None:
    """VGG-19's 144 million parameters are counted and never allocated."""
    described = describe("vgg19")
    assert described.parameters == 143_667_240
    assert described.input_shapes == ((1, 3, 224, 224),)


def test_show_of_an_unknown_name_lists_the_known_ones() -> None:
    """Exit code 1 and a line that names what exists."""
    result = _run("show", "lenet6")
    assert result.exit_code == 1
    assert "unknown architecture 'lenet6': expected one of" in result.stderr


@pytest.mark.slow
def test_build_publishes_and_its_card_is_shown(tmp_path: Path) -> None:
    """The table at the end has the figure and its bar, and `show` then has the card."""
    repository = tmp_path / "models"
    built = _run("build", "softmax-regression", "--repository", str(repository), "--jobs", "1")
    assert built.exit_code == 0, built.output
    (row,) = [line for line in built.stdout.splitlines() if line.startswith("softmax-regression")]
    assert "test_accuracy" in row
    assert "≥" in row
    found = latest_card(repository, "softmax-regression")
    assert found is not None
    assert found[0] == 1
    shown = _run("show", "softmax-regression", "--repository", str(repository))
    assert "version 1: trained on digits in" in shown.stdout
    again = _run("build", "softmax-regression", "--if-missing", "--repository", str(repository))
    assert again.exit_code == 0
    assert [
        path.name for path in (repository / "softmax-regression").iterdir() if path.is_dir()
    ] == ["1"]

    reported = _run("report", "--repository", str(repository))
    assert reported.exit_code == 0
    assert "| `softmax-regression` | 2.2.1 | digits | 650 | test_accuracy **0." in reported.stdout
    assert "torch " in reported.stdout


def test_report_of_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error names the model and the repository."""
    result = _run("report", "mlp", "--repository", str(tmp_path))
    assert result.exit_code == 1
    assert f"{tmp_path} has no card of mlp" in result.stderr


@pytest.mark.slow
def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    """What cannot be published is told in its row and by the exit code; the rest is published."""
    (tmp_path / "mlp").mkdir()
    (tmp_path / "mlp" / "notes.txt").write_text("not a model")
    result = _run(
        "build", "mlp", "softmax-regression", "--repository", str(tmp_path), "--jobs", "1"
    )
    assert result.exit_code == 1
    assert "mlp is not a model: it has no config.pbtxt" in result.stderr
    assert "not published" in result.stdout
    assert latest_card(tmp_path, "softmax-regression") is not None


def test_build_of_an_unknown_name_is_wrong_usage() -> None:
    """Nothing is trained before all names are known to be right."""
    result = _run("build", "softmax-regression", "lenet6")
    assert result.exit_code == 2
    assert "unknown architecture 'lenet6'" in result.stderr


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_file_that_is_no_card_is_refused(tmp_path: Path, content: bytes) -> None:
    """The error names the file."""
    folder = tmp_path / "lenet5" / "1"
    folder.mkdir(parents=True)
    (folder / "card.json").write_bytes(content)
    result = _run("show", "lenet5", "--repository", str(tmp_path))
    assert result.exit_code == 1
    assert "lenet5/1/card.json: not a model card" in result.stderr
