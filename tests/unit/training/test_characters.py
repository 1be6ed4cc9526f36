"""Courses that learn running text: what they learn, how they are judged, what is exported."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from atril_common.errors import RefusedError
from atril_common.tasks import CompletionTask
from atril_models import Network
from atril_models.recurrent.char_transformer import CharacterTransformer
from atril_models.recurrent.language_model import CharacterModel
from atril_training.datasets import TextDataset
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import Optimization, at_most
from atril_training.recipes.sequential import TextRecipe
from atril_training.tasks.characters import TextCourse, read_text

OPTIONS: dict[str, dict[str, object]] = {
    "char-lstm": {"hidden": 24, "layers": 1},
    "char-transformer": {
        "context": 24, "layers": 2, "heads": 2, "channels": 32, "dropout": 0.0,
    },
}  # fmt: skip
every_architecture = pytest.mark.parametrize("architecture", OPTIONS)


def _counting(lines: int, seed: int) -> str:
    """Lines such as "abcde": each starts anywhere in the alphabet and goes on in its order."""
    letters = "abcdefghij" * 2
    starts = np.random.default_rng(seed).integers(0, 10, lines)
    return "".join(letters[start : start + 7] + "\n" for start in starts)


def _dataset() -> TextDataset:
    return TextDataset(
        name="counting",
        alphabet="\nabcdefghij",
        train=_counting(400, 0),
        validation=_counting(40, 1),
        tests={"test": _counting(60, 2)},
        checksums={},
        held_out="lines drawn like those to learn from",
        entropy_nats={"test": log(10) / 8},
    )


def _course(architecture: str, epochs: int = 20) -> TextCourse:
    recipe = TextRecipe(
        architecture=architecture,
        dataset="number_text",
        options=OPTIONS[architecture],
        window=24,
        most_grams=3,
        optimization=Optimization(epochs=epochs, batch_size=8, peak_learning_rate=0.01),
        bars=(at_most("test_nats", 0.37, baseline="test: best n-grams"),),
    )
    return TextCourse(recipe, _dataset())


@every_architecture
def test_a_short_training_learns_more_than_n_grams(architecture: str) -> None:
    """When a line ends can be told only by counting to seven: three characters do not show it."""
    course = _course(architecture)
    network, _training = train_course(course, SilentReporter(), "cpu")
    judgement = judge_course(course, network)
    require_quality(course.recipe, judgement)
    assert judgement.figures["test_nats"] > log(10) / 8 * 0.9


def test_bar_fails_with_shuffled_targets() -> None:
    """A network that has learnt what follows other characters is refused."""
    shuffled = _course("char-lstm").with_shuffled_targets(1)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_nats is 2.*, the bar is at most 0.37"):
        require_quality(shuffled.recipe, judge_course(shuffled, network))


def _network(course: TextCourse) -> Network:
    torch.manual_seed(0)
    return course.build().eval()


def test_a_recurrent_network_reads_a_text_in_one_go() -> None:
    """The loss is that of all characters but the first, each given all before it."""
    course = _course("char-lstm")
    network = _network(course)
    assert isinstance(network, CharacterModel)
    tokens = course.tokens(_counting(600, 3))
    assert len(tokens) > 2 * 2_048
    with torch.no_grad():
        logits = network(tokens[None, :-1])[0]
    expected = functional.cross_entropy(logits, tokens[1:]).item()
    figures = read_text(network, tokens)
    assert figures["nats"] == pytest.approx(expected, rel=1e-5)
    right = (logits.argmax(dim=1) == tokens[1:]).double().mean().item()
    assert figures["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("count", [1, 20, 24, 25, 30, 36, 72, 77, 90])
def test_a_transformer_reads_a_text_in_overlapping_windows(count: int) -> None:
    """Every character is told once: the first 24 from all before, the others from 12 or more."""
    course = _course("char-transformer")
    network = _network(course)
    assert isinstance(network, CharacterTransformer)
    tokens = course.tokens(_counting(40, 3))[: count + 1]
    overlapping, apart = [], []
    with torch.no_grad():
        for place in range(count):
            end_of_window = 24 if place < 24 else 24 + 12 * -(-(place - 23) // 12)
            start = 0 if place < 24 else end_of_window - 24
            overlapping.append(_loss_at(network, tokens[start : place + 2]))
            apart.append(_loss_at(network, tokens[place // 24 * 24 : place + 2]))
    figures = read_text(network, tokens)
    assert figures["nats"] == pytest.approx(float(np.mean(overlapping)), rel=1e-4)
    assert figures["window_nats"] == pytest.approx(float(np.mean(apart)), rel=1e-4)


def _loss_at(network: CharacterTransformer, tokens: Tensor) -> float:
    """Of the last character, given all before it."""
    logits = network(tokens[None, :-1])[0, -1:]
    return functional.cross_entropy(logits, tokens[-1:]).item()


@every_architecture
def test_exports_read_whole_texts_and_single_characters(architecture: str) -> None:
    """The step first, the whole last; parity for both, and a task that says how to use them."""
    course = _course(architecture)
    step, whole = course.exports(_network(course))
    assert (step.suffix, whole.suffix) == ("-step", "")
    for export in (step, whole):
        assert measure_parity(export, export_graph(export)).failures() == ()
    context = 24 if architecture == "char-transformer" else None
    assert whole.task == CompletionTask("\nabcdefghij", "logits", "-step", context)
    dims = {dim for spec in step.inputs for dim in spec.dims if isinstance(dim, str)}
    assert dims == ({"batch", "past"} if context else {"batch"})


def test_baselines_are_counted_in_the_training_text() -> None:
    """Single characters know the frequencies, pairs the order of the letters."""
    figures = _course("char-lstm").baselines()
    assert figures["test: single characters"] == pytest.approx(log(11), abs=0.15)
    assert figures["test: pairs"] < 0.8
    assert figures["test: best n-grams"] <= figures["test: pairs"] + 0.01


def test_an_epoch_covers_the_text_about_once() -> None:
    """So many windows of so many characters as fit, each with the characters that follow."""
    course = _course("char-lstm", epochs=1)
    _network_after, training = train_course(course, SilentReporter(), "cpu")
    assert len(training.fits[0].epochs) == 1
    assert course.data.examples == {"train": 3_200, "validation": 320, "test": 480}
    assert replace(course.recipe, seed=1) != course.recipe
