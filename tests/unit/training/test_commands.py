"""`atril train`, where it ends before or without a publication."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from atril_training.commands import train


@pytest.fixture
def app() -> typer.Typer:
    """An application with `train` under its name, as `atril` registers it."""
    app = typer.Typer()
    app.command("train")(train)
    app.command("other")(lambda: None)
    return app


def _run(app: typer.Typer, *arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        app, ["train", *arguments], env={"COLUMNS": "400", "TERM": "dumb", **environment}
    )
    return result.exit_code, result.stdout, result.stderr


def test_missed_bar_is_one_line_and_exit_code_1(app: typer.Typer, tmp_path: Path) -> None:
    """The last line on standard error says which figure missed which bar; no traceback."""
    code, stdout, stderr = _run(
        app, "lenet5", "--epochs", "1", "--repository", str(tmp_path / "repository")
    )
    assert code == 1
    assert stdout == ""
    lines = stderr.splitlines()
    assert lines[0].startswith("epoch   1/1  loss ")
    assert lines[-1].startswith("atril train: lenet5 on digits: test_accuracy is 0.")
    assert "the bar is at least 0.9700" in lines[-1]
    assert "Traceback" not in stderr
    assert not (tmp_path / "repository").exists()


def test_missing_data_is_named(app: typer.Typer, tmp_path: Path) -> None:
    """The folder comes from the environment where no option gives it."""
    code, _stdout, stderr = _run(
        app, "lenet5", "--dataset", "mnist", ATRIL_DATA_DIR=str(tmp_path / "data")
    )
    assert code == 1
    assert stderr.startswith("atril train: cannot read ")
    assert "data/mnist/train-images-idx3-ubyte.gz: No such file" in stderr


def test_a_tightened_bar_is_held(app: typer.Typer, tmp_path: Path) -> None:
    """A bar that was asked for is one that the model must meet."""
    code, _stdout, stderr = _run(
        app, "lenet5", "--epochs", "1", "--repository", str(tmp_path / "repository"),
        "--bar", "test_accuracy=0.9999",
    )  # fmt: skip
    assert code == 1
    assert "the bar is at least 0.9999" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet6",), "no recipe trains 'lenet6': expected one of "),
        (("lenet5", "--dataset", "cifar"), "no recipe trains lenet5 on 'cifar'"),
        (("lenet5", "--bar", "test_accuracy=0.5"), "is looser than the recipe's 0.97"),
        (("lenet5", "--bar", "test_accuracy=high"), "'high' is not a number"),
        (("lenet5", "--bar", "beauty=1"), "METRIC one of test_accuracy, tail_accuracy"),
        (("lenet5", "--device", "abacus"), "--device abacus cannot be used"),
        (("lenet5", "--epochs", "0"), "--epochs'"),
        (("lenet5", "--seed", "-1"), "--seed'"),
        ((), "Missing argument"),
    ],
    ids=[
        "architecture",
        "dataset",
        "low bar",
        "no number",
        "no metric",
        "device",
        "epochs",
        "seed",
        "nothing",
    ],
)
def test_wrong_usage_ends_with_exit_code_2(
    app: typer.Typer, arguments: tuple[str, ...], message: str
) -> None:
    """What cannot be meant is refused at once, with what would have been right."""
    code, _stdout, stderr = _run(app, *arguments)
    assert code == 2
    assert message in stderr


def test_impossible_name_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    """A name is an argument like others, but its rule is the repository's."""
    code, _stdout, stderr = _run(app, "lenet5", "--name", "no/slash", "--repository", str(tmp_path))
    assert code == 1
    assert "'no/slash' is not a model name" in stderr
