"""Text around a decoder: what is told on the way is what comes out in the end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest

from atril_common.core import ParameterValue
from atril_common.errors import InvalidInputError, NotReadyError, UnsupportedError
from atril_inference.decoding.scheduler import ContinuousDecoder, DecodingLimits, Generation
from atril_inference.decoding.search import Search
from atril_inference.decoding.translation import TranslationOptions, Translator, read_options
from atril_training.tasks.translation_exports import DECODER, ENCODER, EXPLAINER
from atril_training.tokenization import EOS_ID, BytePairTokenizer
from tests.support.exported_decoders import TASK, GraphExecutor, exported_parts
from tests.support.translator_repository import word_tokenizer

GREEDY = TranslationOptions(beam=1, length_penalty=0.0, max_length=12, n_best=1, explain=False)


class Unobserved:
    """Notes nothing."""

    def admitted(self, waited_s: float) -> None:
        """See `DecodingObserver`."""

    def first_token(self, since_submitted_s: float) -> None:
        """See `DecodingObserver`."""

    def stepped(self, rows: int, tokens: int, duration_s: float) -> None:
        """See `DecodingObserver`."""


@asynccontextmanager
async def translator(form: str = "bahdanau", *, explains: bool = True) -> AsyncIterator[Translator]:
    """A translator over the graphs of a slim form."""
    _, graphs = exported_parts(form)

    def decoder(suffix: str) -> ContinuousDecoder:
        step = GraphExecutor(graphs[suffix])
        encoder = GraphExecutor(graphs[ENCODER])
        limits = DecodingLimits(slots=8, max_queue_size=8)
        return ContinuousDecoder(form, encoder, step, step.layout(), limits, Unobserved())

    subject = Translator(
        form,
        replace(TASK, tokenizer=word_tokenizer()),
        decoder(DECODER),
        decoder(EXPLAINER) if explains else None,
    )
    yield subject
    await subject.close()


@pytest.mark.parametrize("beam", [1, 3])
async def test_the_pieces_are_the_whole_text(beam: int) -> None:
    """Who listens hears what who waits is given; with a beam, at the end."""
    pieces: list[str] = []
    async with translator() as subject:
        options = GREEDY._replace(beam=beam, n_best=beam)
        found = await subject.submit("w4 w9 w5", options, pieces.append)

    assert len(found) == beam
    assert found[0].text
    assert "".join(pieces) == found[0].text
    assert (len(pieces) > 1) == (beam == 1)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


async def test_an_explanation_has_a_weight_for_each_pair_of_tokens() -> None:
    """A row for each token written, a column for each token read, each row a distribution."""
    async with translator() as subject:
        (found,) = await subject.submit("w4 w9 w5", GREEDY._replace(explain=True))
        (plain,) = await subject.submit("w4 w9 w5", GREEDY)

    assert found.source_tokens == ("w4", "w9", "w5", "<eos>")
    assert len(found.attention) == len(found.target_tokens) > 0
    assert [sum(row) for row in found.attention] == pytest.approx([1.0] * len(found.attention))
    assert {len(row) for row in found.attention} == {4}
    assert plain == found._replace(source_tokens=(), target_tokens=(), attention=())


async def test_a_caller_who_leaves_gives_the_slots_back() -> None:
    """Cancelling the answer ends the decoding."""
    async with translator() as subject:
        answer = subject.submit("w4 w9 w5", GREEDY)
        answer.cancel()
        await subject.close()

    assert answer.cancelled()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("w4 " * 12, "13 tokens with the end token.*at most 12"),
        ("x" * 100_000, "100000 characters.*more than the 12 tokens"),
    ],
)
async def test_a_text_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    """Nothing is cut off in silence."""
    async with translator() as subject:
        with pytest.raises(InvalidInputError, match=reason):
            subject.submit(text, GREEDY)


async def test_a_model_without_attention_cannot_explain() -> None:
    """It says so instead of answering without."""
    async with translator("rnn-encoder-decoder", explains=False) as subject:
        with pytest.raises(UnsupportedError, match="no attention"):
            subject.submit("w4", GREEDY._replace(explain=True))


def test_a_task_without_a_tokenizer_is_not_served() -> None:
    """The model is not ready, with the reason."""
    with pytest.raises(NotReadyError, match="tokenizer of 'm'"):
        Translator("m", replace(TASK, tokenizer="{}"), cast(ContinuousDecoder, None), None)


class _Scripted:
    """A decoder that writes the tokens it was given."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def submit(
        self,
        source: Sequence[int],
        begin: int,
        search: Search,
        written: Callable[[int], None],
        deadline_s: float | None,
    ) -> Generation:
        """See `ContinuousDecoder.submit`."""
        result = asyncio.get_running_loop().create_future()
        for token in self.tokens:
            written(token)
        return Generation(source, begin, search, result, written, deadline_s)


async def test_no_half_character_is_told() -> None:
    """A character of several tokens comes when the last of them is there."""
    tokenizer = BytePairTokenizer.train(["a"], 260)
    text = "a€ñ"
    tokens = tokenizer.encode(text)
    assert len(tokens) > len(text)
    pieces: list[str] = []
    subject = Translator(
        "m",
        replace(TASK, tokenizer=tokenizer.to_json(), eos_id=EOS_ID),
        cast(ContinuousDecoder, _Scripted(tokens)),
        None,
    )

    subject.submit("b", GREEDY, pieces.append)

    assert pieces == ["a", "€", "ñ"]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"beam": 0}, "'beam': expected a whole number from 1 to 16, got 0"),
        ({"beam": True}, "'beam'.*got True"),
        ({"beam": 17}, "'beam'.*got 17"),
        ({"n_best": 2}, "'n_best': expected a whole number from 1 to 1"),
        ({"max_length": 41}, "'max_length': expected a whole number from 1 to 40"),
        ({"length_penalty": -0.1}, "'length_penalty': expected a number from 0"),
        ({"length_penalty": float("nan")}, "'length_penalty'"),
        ({"length_penalty": "1"}, "'length_penalty'"),
        ({"explain": 1}, "'explain': expected true or false"),
        ({"temperature": 1.0}, "unknown parameter 'temperature': expected one of beam"),
    ],
)
def test_an_option_out_of_its_range_is_named(
    parameters: dict[str, ParameterValue], reason: str
) -> None:
    """The text says which, what came, and what was expected."""
    with pytest.raises(InvalidInputError, match=reason):
        read_options(parameters.items(), TASK)


def test_options_not_given_are_the_models_own() -> None:
    """The search that the model was judged with is the one that users get."""
    task = replace(TASK, beam=5, length_penalty=0.6)

    options = read_options([("max_length", 7)], task)

    assert options == TranslationOptions(
        beam=5, length_penalty=0.6, max_length=7, n_best=1, explain=False
    )
