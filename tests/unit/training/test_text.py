"""Running text, and the n-grams that a network has to beat."""

from math import log
from pathlib import Path

import numpy as np
import pytest

from atril_training.baselines.ngrams import NGramModel
from atril_training.datasets import TEXT_DATASETS, TextDataset, file_source
from atril_training.datasets.files import FolderSource
from atril_training.datasets.number_corpus import is_held_out_number

NOWHERE = FolderSource(Path("not read"))


@pytest.fixture(scope="module")
def numbers() -> TextDataset:
    """The generated text."""
    return TEXT_DATASETS["number_text"](NOWHERE)


def test_tokens_are_places_in_the_alphabet(numbers: TextDataset) -> None:
    """The alphabet is sorted, and the tokens give the text back."""
    assert list(numbers.alphabet) == sorted(set(numbers.alphabet))
    line = "three hundred and five\n"
    assert "".join(numbers.alphabet[token] for token in numbers.tokens(line)) == line


def test_unknown_characters_are_refused(numbers: TextDataset) -> None:
    """The error shows the character."""
    with pytest.raises(ValueError, match="the alphabet of number_text has no 'é'"):
        numbers.tokens("café")


def test_held_out_ranges_are_not_learnt_from(numbers: TextDataset) -> None:
    """No line of the range split is a line of the training text."""
    learnt = set(numbers.train.splitlines())
    assert not learnt & set(numbers.tests["range"].splitlines())
    assert all(
        line.startswith(("seven thousand", "three hundred and", "seventeen "))
        for line in numbers.tests["range"].splitlines()
    )
    assert is_held_out_number(350_000)


def test_no_n_gram_is_below_the_entropy_of_the_source(numbers: TextDataset) -> None:
    """The information of the lines, per character, is less than any model needs."""
    tokens = numbers.tokens(numbers.train).tolist()
    test = numbers.tokens(numbers.tests["test"]).tolist()
    grams = NGramModel(tokens, len(numbers.alphabet), 9)
    entropies = [grams.cross_entropy(test, order) for order in (1, 3, 9)]
    assert entropies == sorted(entropies, reverse=True)
    assert 0.3 < numbers.entropy_nats["test"] < entropies[-1] < 0.4


@pytest.mark.parametrize(
    ("name", "characters", "alphabet"),
    [("tiny_shakespeare", 1_115_394, 65), ("time_machine", 173_428, 27)],
)
def test_classics_are_read_whole(name: str, characters: int, alphabet: int, shared: Path) -> None:
    """As many characters as published, the last tenth of which judge."""
    text = TEXT_DATASETS[name](file_source(shared / "data"))
    parts = text.train + text.validation + text.tests["test"]
    assert (len(parts), len(text.alphabet)) == (characters, alphabet)
    assert len(text.train) + len(text.validation) == int(0.9 * characters)


def test_n_grams_by_hand() -> None:
    """Witten and Bell on "aab": p(a) = (2 + 2·½)/(3 + 2), p(b|a) = (1 + 2·p(b))/(2 + 2)."""
    grams = NGramModel([0, 0, 1], 2, 2)
    p_a, p_b = (2 + 2 * 0.5) / 5, (1 + 2 * 0.5) / 5
    assert grams.probability(0, []) == pytest.approx(p_a)
    assert grams.probability(1, [0]) == pytest.approx((1 + 2 * p_b) / 4)
    # Nothing was ever seen after b, so that single characters decide.
    assert grams.probability(0, [1]) == pytest.approx(p_a)
    assert grams.cross_entropy([0, 1], 2) == pytest.approx(-log((1 + 2 * p_b) / 4))


def test_n_grams_sum_to_one() -> None:
    """Over the alphabet, after any context, seen or not."""
    tokens = np.random.default_rng(0).integers(0, 4, 200).tolist()
    grams = NGramModel(tokens, 5, 4)
    for context in ([], [1], [4, 2], [0, 1, 2], [3, 3, 3, 3]):
        assert sum(grams.probability(c, context) for c in range(5)) == pytest.approx(1)


def test_single_characters_reach_the_entropy_of_their_frequencies() -> None:
    """On the text that they were counted in, for a long one."""
    tokens = [0, 1, 1, 1] * 5_000
    entropy = -(0.25 * log(0.25) + 0.75 * log(0.75))
    assert NGramModel(tokens, 2, 1).cross_entropy(tokens, 1) == pytest.approx(entropy, abs=1e-3)


@pytest.mark.parametrize(("alphabet", "order"), [(0, 1), (3, 0)])
def test_impossible_n_grams_are_refused(alphabet: int, order: int) -> None:
    """The error says what was given."""
    with pytest.raises(ValueError, match=f"at least 1, got {order} and {alphabet}"):
        NGramModel([0], alphabet, order)


@pytest.mark.parametrize("order", [0, 3])
def test_only_orders_that_were_counted_can_be_asked_for(order: int) -> None:
    """The error says which are."""
    with pytest.raises(ValueError, match=f"an order from 1 to 2, got {order}"):
        NGramModel([0, 1], 2, 2).cross_entropy([0, 1], order)
