"""Byte-pair encoding: exact both ways, the same each time, and blind to names of special tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import InvalidInputError
from atril_training.tokenization import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SMALLEST_VOCABULARY,
    SPECIAL_TOKENS,
    BytePairTokenizer,
)

TEXTS = ["the low lower lowest", "new newer newest wide wider widest", "Años: 1999, 2024"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> BytePairTokenizer:
    """Learnt from a few words."""
    return BytePairTokenizer.train(TEXTS, 300)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_exactly(tokenizer: BytePairTokenizer, text: str) -> None:
    """Blanks at both ends, control characters and letters never seen are all kept."""
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_the_name_of_a_special_token_is_ordinary_text(
    tokenizer: BytePairTokenizer, name: str
) -> None:
    """Nobody can end a sentence by writing `<eos>` into it."""
    ids = tokenizer.encode(f"low {name} new")
    assert min(ids) >= len(SPECIAL_TOKENS)
    assert tokenizer.decode(ids) == f"low {name} new"


def test_special_tokens_have_the_first_ids_and_no_text(tokenizer: BytePairTokenizer) -> None:
    """Begin, end and padding vanish when ids become text."""
    low = tokenizer.encode("low")
    assert (PAD_ID, BOS_ID, EOS_ID) == (0, 1, 2)
    assert tokenizer.decode([BOS_ID, *low, EOS_ID, PAD_ID, PAD_ID]) == "low"


def test_frequent_words_become_single_tokens(tokenizer: BytePairTokenizer) -> None:
    """Also at the beginning of a text, where they are the tokens that they are elsewhere."""
    assert len(tokenizer.encode("low")) == 1
    assert tokenizer.encode("low low") == 2 * tokenizer.encode("low")


def test_digits_are_never_merged(tokenizer: BytePairTokenizer) -> None:
    """A year is four digits after a blank, however often it was seen."""
    blank, *digits = tokenizer.encode("2024")
    assert digits == [tokenizer.encode(digit)[1] for digit in "2024"]
    assert tokenizer.decode([blank]) == ""


def test_the_same_texts_give_the_same_tokenizer(tokenizer: BytePairTokenizer) -> None:
    """Byte for byte, and so does what was written and read."""
    assert BytePairTokenizer.train(TEXTS, 300).to_json() == tokenizer.to_json()
    assert BytePairTokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()


def test_a_tokenizer_that_was_read_encodes_alike(tokenizer: BytePairTokenizer) -> None:
    """One by one and all at once."""
    other = BytePairTokenizer.from_json(tokenizer.to_json())
    texts = ["lowest newest", "", " ñ 7"]
    assert other.encode_all(texts) == [tokenizer.encode(text) for text in texts]
    assert other.vocabulary == tokenizer.vocabulary


def test_the_vocabulary_is_at_most_what_was_asked_for() -> None:
    """It is reached where there is enough to merge, and not exceeded where there is not."""
    assert BytePairTokenizer.train(TEXTS, 270).vocabulary == 270
    assert SMALLEST_VOCABULARY < BytePairTokenizer.train(TEXTS, 9000).vocabulary < 400
    assert BytePairTokenizer.train(TEXTS, SMALLEST_VOCABULARY).vocabulary == SMALLEST_VOCABULARY


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    """The error has the least and what was asked for."""
    with pytest.raises(ValueError, match=r"must be at least 260, .*, got 259"):
        BytePairTokenizer.train(TEXTS, 259)


def test_what_is_no_tokenizer_is_refused() -> None:
    """The library's own words are in the error."""
    with pytest.raises(InvalidInputError, match="not a tokenizer: "):
        BytePairTokenizer.from_json("{}")
