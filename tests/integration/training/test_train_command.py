"""`atril train lenet5` as a user runs it, with the real recipe."""

from pathlib import Path

import numpy as np
import onnxruntime
import orjson
import pytest
import typer
from typer.testing import CliRunner, Result

from atril_common.imaging import normalise
from atril_common.model_config import read_config, read_task
from atril_training.commands import train
from atril_training.datasets import DATASETS, file_source


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with LeNet-5 in it, trained by the default recipe."""
    root = tmp_path_factory.mktemp("repository")
    result = _train(root)
    assert result.exit_code == 0, result.output
    return root


def _train(root: Path, *options: str) -> Result:
    app = typer.Typer()
    app.command("train")(train)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["train", "lenet5", "--repository", str(root), *options])


@pytest.mark.slow
def test_default_model_meets_its_bar(repository: Path) -> None:
    """The card says at least 0.97 on the test split, and exact agreement with ONNX Runtime."""
    card = orjson.loads((repository / "lenet5" / "1" / "card.json").read_bytes())
    (metric,) = card["metrics"]
    assert metric["value"] >= metric["minimum"] == 0.97
    assert all(batch["argmax_agreement"] == 1.0 for batch in card["parity"]["batches"])


@pytest.mark.slow
def test_published_model_reaches_its_accuracy_from_the_repository_alone(repository: Path) -> None:
    """With nothing but the files, as a server has them, the test digits are read as well."""
    folder = repository / "lenet5"
    task = read_task(read_config(folder / "config.pbtxt"))
    assert task is not None
    session = onnxruntime.InferenceSession(
        folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    test = DATASETS["digits"](task.image, file_source(None)).test
    (probabilities,) = session.run(
        [task.output], {task.image.name: normalise(test.pixels, task.image)}
    )
    card = orjson.loads((folder / "1" / "card.json").read_bytes())
    errors = int(np.sum(probabilities.argmax(axis=1) != test.targets))
    assert errors == card["metrics"][0]["errors"]


@pytest.mark.slow
def test_same_command_gives_the_same_file(repository: Path) -> None:
    """A second run by command publishes version 2 with the same bytes, and prints its figures."""
    result = _train(repository)
    assert result.exit_code == 0, result.output
    first, second = (repository / "lenet5" / v / "model.onnx" for v in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()
    trained, accuracy, *parity, published = result.stdout.splitlines()
    assert trained.startswith("trained    lenet5 on digits, seed 0, in ")
    assert "the bar is 0.9700" in accuracy
    assert [line.split()[2] for line in parity] == ["1:", "7:", "64:"]
    assert published == f"published  {repository / 'lenet5' / '2'}"


@pytest.mark.slow
def test_if_missing_leaves_a_model_as_it_is(repository: Path) -> None:
    """With --if-missing nothing is trained where a version is there already."""
    before = sorted(path.name for path in (repository / "lenet5").iterdir())
    result = _train(repository, "--if-missing")
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stdout
    assert sorted(path.name for path in (repository / "lenet5").iterdir()) == before
