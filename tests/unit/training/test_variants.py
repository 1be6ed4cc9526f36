"""Variants of published models in FP16 and INT8: converted, judged, compared, published, served."""

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
import torch
import typer
from typer.testing import CliRunner

from atril_common.core import InferRequest
from atril_common.errors import NotFoundError, RefusedError
from atril_common.model_config import read_config
from atril_common.repository import MODEL_FILE
from atril_common.tasks import read_task
from atril_inference.engine import Engine
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from atril_models import Network
from atril_training.card import Training, build_card, card_of_graph
from atril_training.commands import train, variants
from atril_training.configuration import model_config
from atril_training.datasets import file_source
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter, deterministic
from atril_training.graphs import Graph, GraphCourse
from atril_training.pipeline import judge_course, prove, train_course
from atril_training.publication import Publication, publish_together
from atril_training.recipes import RECIPES, Recipe
from atril_training.recipes.variants import Loss, Precision, VariantBars
from atril_training.tasks import prepare
from atril_training.tasks.pictures import PictureClassificationCourse
from atril_training.variants import build
from atril_training.variants.build import check_variants, publish_variants
from atril_training.variants.conversion import to_float16, to_int8

NO_FILES = file_source(Path("not read"))


def published_short(repository: Path, architecture: str, epochs: int) -> str:
    """Train a recipe of the digits for a moment and publish what came of it, whatever it is."""
    recipe = RECIPES[architecture, "digits"]
    short = replace(recipe, optimization=replace(recipe.optimization, epochs=epochs))
    course = prepare(short, NO_FILES)
    network, training = train_course(course, SilentReporter(), "cpu")
    publish_course(course, network, training, repository, architecture)
    return architecture


def publish_course(
    course: Any, network: Network, training: Training, repository: Path, name: str
) -> None:
    """Publish a trained network without asking for its bars."""
    card = build_card(course, network, training, judge_course(course, network))
    publications = []
    for export in course.exports(network):
        content = export_graph(export)
        own = name + export.suffix
        of_graph = card_of_graph(card, prove(export, content), name, [own])
        publications.append(
            Publication(model_config(own, export), export.labels, {MODEL_FILE: content}, of_graph)
        )
    publish_together(publications, repository)


@pytest.fixture(scope="module")
def originals(
    tmp_path_factory: pytest.TempPathFactory,
    course: PictureClassificationCourse,
    trained: tuple[Network, Training],
) -> Path:
    """A repository with three models of different kinds in FP32."""
    repository = tmp_path_factory.mktemp("repository")
    publish_course(course, *trained, repository, "lenet5")
    published_short(repository, "mlp", 4)
    published_short(repository, "deep-autoencoder", 6)
    return repository


@pytest.fixture
def repository(originals: Path, tmp_path: Path) -> Path:
    """A copy of the models, to publish into."""
    return Path(shutil.copytree(originals, tmp_path / "repository"))


def card_of(version: Path) -> dict[str, Any]:
    """The card of a version."""
    card: dict[str, Any] = orjson.loads((version / "card.json").read_bytes())
    return card


def types_in(onnx_model: bytes) -> set[int]:
    """Element types of the weights."""
    model = onnx.load_model_from_string(onnx_model)
    return {tensor.data_type for tensor in model.graph.initializer}


def operators_in(onnx_model: bytes) -> set[str]:
    """Operators of a graph."""
    return {node.op_type for node in onnx.load_model_from_string(onnx_model).graph.node}


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_a_variant_of_a_classifier_keeps_its_accuracy(
    repository: Path, name: str, precision: Precision
) -> None:
    """It is a model of its own, whose card has its own figure, the FP32 figure and the bar."""
    (made,) = publish_variants(name, [precision], repository=repository, source=NO_FILES)
    (version,) = made.paths
    assert version == repository / f"{name}-{precision}" / "1"
    card = card_of(version)
    (metric,) = card["metrics"]
    fp32 = card_of(repository / name / "1")["figures"]["test_accuracy"]
    assert metric["name"] == "test_accuracy"
    assert metric["baseline_value"] == pytest.approx(fp32, abs=1e-6)
    assert metric["bar"]["bound"] == pytest.approx(fp32 - 0.005, abs=1e-6)
    assert metric["value"] >= metric["bar"]["bound"]
    assert card["figures"]["test_accuracy"] == metric["value"]
    assert (card["model"], card["architecture"]) == (f"{name}-{precision}", name)
    assert card["variant"]["of"]["model"] == name
    assert [case["sizes"]["batch"] for case in card["parity"]["cases"]] == [1, 7, 64]
    logits = card["parity"]["cases"][0]["outputs"][0]
    assert logits["argmax_agreement"] >= 0.98
    assert 0 < logits["max_abs"] <= logits["tolerance"]


@pytest.mark.parametrize("precision", Precision)
def test_an_autoencoder_has_its_parts_in_the_precision_too(
    repository: Path, precision: Precision
) -> None:
    """The whole, the encoder and the decoder under one number; the task names them by suffix."""
    name = "deep-autoencoder"
    (made,) = publish_variants(name, [precision], repository=repository, source=NO_FILES)
    assert [path.parent.name for path in made.paths] == [
        f"{name}-{precision}-encoder", f"{name}-{precision}-decoder", f"{name}-{precision}",
    ]  # fmt: skip
    (metric,) = made.metrics
    allowed = {Precision.FP16: 1.01, Precision.INT8: 1.1}[precision]
    assert metric.name == "test_squared_error"
    assert metric.value <= allowed * metric.baseline_value
    variant = read_config(repository / f"{name}-{precision}" / "config.pbtxt")
    assert read_task(variant) == read_task(read_config(repository / name / "config.pbtxt"))


def test_a_variant_takes_and_answers_what_the_model_does(repository: Path) -> None:
    """Inputs and outputs stay FP32, so task, labels and tensors are the same."""
    publish_variants("lenet5", tuple(Precision), repository=repository, source=NO_FILES)
    original = read_config(repository / "lenet5" / "config.pbtxt")
    for precision in Precision:
        folder = repository / f"lenet5-{precision}"
        config = read_config(folder / "config.pbtxt")
        assert config.name == folder.name
        config.name = original.name
        assert config == original
        assert (folder / "labels.txt").read_text() == (
            repository / "lenet5" / "labels.txt"
        ).read_text()


async def test_the_engine_serves_variants_beside_their_model(repository: Path) -> None:
    """All three are ready, and answer a picture with the same class."""
    publish_variants("lenet5", tuple(Precision), repository=repository, source=NO_FILES)
    for other in (
        "mlp",
        "deep-autoencoder",
        "deep-autoencoder-encoder",
        "deep-autoencoder-decoder",
    ):
        shutil.rmtree(repository / other)
    options = SessionOptions(device="cpu", intra_op_threads=1)
    engine = Engine(LocalRepository(repository), options, 8)
    await engine.start()
    assert await engine.ready()
    picture = np.random.default_rng(0).random((1, 1, 32, 32), np.float32)
    answers = await asyncio.gather(
        *(
            engine.infer(InferRequest(name, {"image": picture}))
            for name in ("lenet5", "lenet5-fp16", "lenet5-int8")
        )
    )
    assert len({int(answer.outputs["logits"].argmax()) for answer in answers}) == 1
    await engine.close()


def test_weights_are_in_the_precision(onnx_model: bytes, course: GraphCourse) -> None:
    """Half the size in FP16; INT8 weights with Q and DQ nodes; nothing of the machine in either."""
    half = to_float16(onnx_model)
    assert types_in(onnx_model) & {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in types_in(half)
    assert onnx.TensorProto.FLOAT not in types_in(half)
    assert len(half) < 0.6 * len(onnx_model)
    pictures = course.graph_inputs({}, "train", 64)[""].numpy()
    quantized = to_int8(onnx_model, pictures)
    assert onnx.TensorProto.INT8 in types_in(quantized)
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators_in(quantized)
    assert len(quantized) < 0.5 * len(onnx_model)
    assert b"/tmp" not in quantized + half


def test_the_same_graph_and_data_give_the_same_bytes(
    onnx_model: bytes, course: GraphCourse
) -> None:
    """Conversion draws nothing at random."""
    pictures = course.graph_inputs({}, "train", 64)[""].numpy()
    assert to_int8(onnx_model, pictures) == to_int8(onnx_model, pictures)
    assert to_float16(onnx_model) == to_float16(onnx_model)


def test_calibration_sees_the_training_split_alone(course: PictureClassificationCourse) -> None:
    """Whatever is in the test split, what INT8 ranges are measured on is the same."""
    test = course.dataset.test
    other = replace(course.dataset, test=replace(test, pixels=255 - test.pixels))
    changed = PictureClassificationCourse(course.recipe, course.image, other)
    seen = changed.graph_inputs({}, "train", 64)[""]
    assert torch.equal(seen, course.graph_inputs({}, "train", 64)[""])
    assert not torch.equal(seen, course.graph_inputs({}, "test", 64)[""])


@pytest.mark.parametrize("architecture", ["resnet18", "googlenet"])
def test_deep_convolutions_can_be_converted(architecture: str) -> None:
    """Normalisation, sums and concatenations: untrained, both conversions stay near FP32."""
    course = prepare(RECIPES[architecture, "digits"], NO_FILES)
    assert isinstance(course, GraphCourse)
    with deterministic(0, 1):
        (export,) = course.exports(course.build().eval())
    content = export_graph(export)
    pictures = course.graph_inputs({}, "train", 64)[""]
    expected = Graph.load(content).only("logits").answers(pictures)[0]
    scale = float(expected.std())
    for converted, bound in (
        (to_float16(content), 0.05),
        (to_int8(content, pictures.numpy()), 0.5),
    ):
        answered = Graph.load(converted).only("logits").answers(pictures)[0]
        assert float((answered - expected).abs().mean()) < bound * scale


def bars(**changes: Any) -> VariantBars:
    """Bars of INT8 that a short training meets, changed."""
    kept = {"losses": (Loss("test_accuracy", 1.0, "higher"),), "tolerance": 1e9}
    return VariantBars(**{"precision": Precision.INT8, "argmax_agreement": 0.0, **kept, **changes})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (bars(losses=(Loss("test_accuracy", -0.5, "higher"),)), "test_accuracy is 0.* FP32 model"),
        (bars(losses=(Loss("test_loss", -0.99, "lower", relative=True),)), "test_loss is"),
        (bars(tolerance=1e-9), "lenet5-int8: logits max abs difference .* at batch 1, at most"),
        (bars(argmax_agreement=1.1), "logits argmax agreement .* at least 1.1 required"),
    ],
    ids=["figure", "relative", "tolerance", "argmax"],
)
def test_what_loses_too_much_is_not_published(
    repository: Path, monkeypatch: pytest.MonkeyPatch, changed: VariantBars, text: str
) -> None:
    """The error has every figure that misses its bar, and nothing appears in the repository."""
    recipe = replace(RECIPES["lenet5", "digits"], variants=(changed,))
    monkeypatch.setattr(build, "find_recipe", lambda *_: recipe)
    with pytest.raises(RefusedError, match=f"lenet5-int8 loses too much: .*{text}"):
        publish_variants("lenet5", [Precision.INT8], repository=repository, source=NO_FILES)
    assert not (repository / "lenet5-int8").exists()


def test_a_second_variant_is_the_next_version(repository: Path) -> None:
    """As with every model."""
    for number in ("1", "2"):
        (made,) = publish_variants("mlp", [Precision.FP16], repository=repository, source=NO_FILES)
        assert made.paths[0].name == number


def test_a_file_that_is_not_the_cards_is_refused(repository: Path) -> None:
    """A variant is made of what was proven, or not at all."""
    model = repository / "mlp" / "1" / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes() + b"\x00")
    with pytest.raises(RefusedError, match="is not the file that its card tells of"):
        publish_variants("mlp", [Precision.FP16], repository=repository, source=NO_FILES)
    model.unlink()
    with pytest.raises(RefusedError, match="is not a published version"):
        publish_variants("mlp", [Precision.FP16], repository=repository, source=NO_FILES)


def test_other_data_than_the_cards_are_refused(repository: Path) -> None:
    """Figures on another test split could not be compared."""
    path = repository / "mlp" / "1" / "card.json"
    card = orjson.loads(path.read_bytes())
    card["data"]["checksums_sha256"] = {"scikit-learn digits": "0"}
    path.chmod(0o644)
    path.write_bytes(orjson.dumps(card))
    with pytest.raises(RefusedError, match="not those of its card"):
        publish_variants("mlp", [Precision.FP16], repository=repository, source=NO_FILES)


def test_a_variant_of_a_variant_is_refused(repository: Path) -> None:
    """Precision is lost once."""
    publish_variants("mlp", [Precision.FP16], repository=repository, source=NO_FILES)
    with pytest.raises(RefusedError, match="'mlp-fp16' is a variant of 'mlp'"):
        publish_variants("mlp-fp16", [Precision.INT8], repository=repository, source=NO_FILES)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    """An empty repository."""
    with pytest.raises(NotFoundError, match="no model 'mlp' with a card"):
        publish_variants("mlp", [Precision.FP16], repository=tmp_path, source=NO_FILES)


def test_a_recipe_without_variants_says_so() -> None:
    """Before anything is trained."""
    recipe: Recipe = RECIPES["transformer", "number_corpus"]
    with pytest.raises(RefusedError, match=r"transformer on .* no variant 'int8'; it has none"):
        check_variants(recipe, [Precision.INT8])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.title)
def test_the_bars_of_variants_are_about_figures_that_are_judged(recipe: Recipe) -> None:
    """Each precision once; each loss is small and positive."""
    precisions = [one.precision for one in recipe.variants]
    assert len(set(precisions)) == len(precisions)
    for one in recipe.variants:
        assert one.losses
        assert all(0 < loss.at_most <= 0.1 for loss in one.losses)


def run(repository: Path, *arguments: str) -> tuple[int, str, str]:
    """Either command over a repository."""
    app = typer.Typer()
    app.command("train")(train)
    app.command("variants")(variants)
    result = CliRunner().invoke(
        app,
        [*arguments, "--repository", str(repository)],
        env={"COLUMNS": "400", "TERM": "dumb"},
    )
    return result.exit_code, result.stdout, result.stderr


def test_the_command_publishes_all_variants_and_says_what_they_are(repository: Path) -> None:
    """`atril variants NAME`."""
    code, stdout, stderr = run(repository, "variants", "mlp")
    assert (code, stderr) == (0, "")
    assert "quality    test_accuracy 0." in stdout
    assert "in int8" in stdout
    for precision in Precision:
        assert f"parity     mlp-{precision}: FP32 and {precision} within " in stdout
        assert str(repository / f"mlp-{precision}" / "1") in stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("variants", "nothing"), 1, "atril variants: .* has no model 'nothing'"),
        (("variants", "mlp", "--variant", "fp8"), 2, "fp8"),
        (("train", "transformer", "--variant", "int8"), 1, "atril train: .*no variant 'int8'"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(
    repository: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    """No traceback; nothing is trained first."""
    status, _stdout, stderr = run(repository, *arguments)
    assert status == code
    assert "Traceback" not in stderr
    assert re.search(text, stderr)
