"""`atril train lenet5` as a user runs it, with the real recipe."""

from pathlib import Path

import numpy as np
import onnxruntime
import orjson
import pytest
import typer
from typer.testing import CliRunner, Result

from atril_common.imaging import normalise
from atril_common.model_config import read_config
from atril_common.tasks import ClassificationTask, ImageInput, read_task
from atril_training.commands import train
from atril_training.datasets import PICTURE_DATASETS, file_source


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with LeNet-5 and its variants in it, trained by the default recipe."""
    root = tmp_path_factory.mktemp("repository")
    result = _train(root, "--variant", "fp16", "--variant", "int8")
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
    values = {metric["name"]: metric for metric in card["metrics"]}
    assert values["test_accuracy"]["value"] >= values["test_accuracy"]["bar"]["bound"] == 0.97
    assert values["tail_accuracy"]["value"] >= values["tail_accuracy"]["bar"]["bound"]
    logits = [case["outputs"][0] for case in card["parity"]["cases"]]
    assert [output["argmax_agreement"] for output in logits] == [1.0, 1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_loses_at_most_half_a_point(repository: Path, precision: str) -> None:
    """Of the accuracy of the default model, by the variant's own card."""
    card = orjson.loads((repository / f"lenet5-{precision}" / "1" / "card.json").read_bytes())
    fp32 = orjson.loads((repository / "lenet5" / "1" / "card.json").read_bytes())
    accuracy = fp32["figures"]["test_accuracy"]
    assert card["figures"]["test_accuracy"] >= accuracy - 0.005 - 1e-6
    assert card["variant"]["of"]["sha256"]["lenet5"] == fp32["files_sha256"]["model.onnx"]


@pytest.mark.slow
def test_published_model_reaches_its_accuracy_from_the_repository_alone(repository: Path) -> None:
    """With nothing but the files, as a server has them, the test digits are read as well."""
    folder = repository / "lenet5"
    task = read_task(read_config(folder / "config.pbtxt"))
    assert isinstance(task, ClassificationTask)
    assert isinstance(task.input, ImageInput)
    session = onnxruntime.InferenceSession(
        folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    test = PICTURE_DATASETS["digits"](task.input, file_source(None)).test
    (probabilities,) = session.run(
        [task.output], {task.input.name: normalise(test.pixels, task.input)}
    )
    card = orjson.loads((folder / "1" / "card.json").read_bytes())
    errors = int(np.sum(probabilities.argmax(axis=1) != test.targets))
    assert errors == card["figures"]["test_errors"]


@pytest.mark.slow
def test_same_command_gives_the_same_file(repository: Path) -> None:
    """A second run by command publishes version 2 with the same bytes, and prints its figures."""
    result = _train(repository)
    assert result.exit_code == 0, result.output
    first, second = (repository / "lenet5" / v / "model.onnx" for v in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()
    trained, accuracy, tail, parity, published = result.stdout.splitlines()
    assert trained.startswith("trained    lenet5 on digits, seed 0, in ")
    assert "test_accuracy" in accuracy
    assert "the bar is 0.9700" in accuracy
    assert "tail_accuracy" in tail
    assert "in 3 cases" in parity
    assert published.startswith(f"published  {repository / 'lenet5' / '2'}, 0.25 MB, ")


@pytest.mark.slow
def test_if_missing_leaves_a_model_as_it_is(repository: Path) -> None:
    """With --if-missing nothing is trained where a version is there already."""
    before = sorted(path.name for path in (repository / "lenet5").iterdir())
    result = _train(repository, "--if-missing")
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stdout
    assert sorted(path.name for path in (repository / "lenet5").iterdir()) == before
