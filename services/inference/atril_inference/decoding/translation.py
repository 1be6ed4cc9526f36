"""Text to text: tokens around a decoder."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from atril_common.core import ParameterValue
from atril_common.errors import InvalidInputError, NotReadyError, UnsupportedError
from atril_common.tasks import TranslationTask
from atril_inference.decoding.scheduler import ContinuousDecoder
from atril_inference.decoding.search import BeamSearch, GreedySearch, Hypothesis, Search

LARGEST_BEAM = 16
LARGEST_LENGTH_PENALTY = 10.0

_UNFINISHED = "�"
"""Stands at the end of a text whose last character is not written whole."""


class TranslationOptions(NamedTuple):
    """How a text is translated; see `read_options` for the bounds."""

    beam: int
    length_penalty: float
    max_length: int
    n_best: int
    explain: bool


class Translation(NamedTuple):
    """One translation of a text.

    `attention` has a row for each of `target_tokens` and a column for each of `source_tokens`;
    all three are empty unless they were asked for.
    """

    text: str
    score: float
    finished: bool
    source_tokens: tuple[str, ...] = ()
    target_tokens: tuple[str, ...] = ()
    attention: tuple[tuple[float, ...], ...] = ()


def read_options(
    parameters: Iterable[tuple[str, ParameterValue]], task: TranslationTask
) -> TranslationOptions:
    """The options in a request's parameters, the task's own where one is not given.

    Raises:
        InvalidInputError: an option that there is not, or a value out of its range.
    """
    given = dict(parameters)
    beam = _whole(given, "beam", task.beam, LARGEST_BEAM)
    options = TranslationOptions(
        beam=beam,
        length_penalty=_penalty(given, task.length_penalty),
        max_length=_whole(given, "max_length", task.max_target_length, task.max_target_length),
        n_best=_whole(given, "n_best", 1, beam),
        explain=_flag(given, "explain"),
    )
    if given:
        raise InvalidInputError(
            f"unknown parameter '{next(iter(given))}': expected one of "
            f"{', '.join(TranslationOptions._fields)}"
        )
    return options


class Translator:
    """Translates texts with a decoder, and explains translations with another.

    Args:
        model_name: for the error texts.
        task: tokenizer, special tokens and limits.
        decoder: of the plain step.
        explainer: of the step that answers attention, None where the model has none.

    Raises:
        NotReadyError: the task's tokenizer cannot be read.
    """

    def __init__(
        self,
        model_name: str,
        task: TranslationTask,
        decoder: ContinuousDecoder,
        explainer: ContinuousDecoder | None,
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(task.tokenizer)
        except Exception as err:  # the library's errors share no base class
            raise NotReadyError(f"the tokenizer of '{model_name}' cannot be read: {err}") from err
        self._model_name = model_name
        self._task = task
        self._decoder = decoder
        self._explainer = explainer
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        self._most_characters = task.max_source_length * longest

    def submit(
        self,
        text: str,
        options: TranslationOptions,
        written: Callable[[str], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> "asyncio.Future[list[Translation]]":
        """Translate a text; cancelling the future gives its slots back.

        Args:
            text: to translate.
            options: how.
            written: called with each piece of the best translation as soon as it is certain, which
                with a beam is at the end; the pieces are its whole text.
            deadline_s: on the event loop's clock.

        Raises:
            InvalidInputError: the text is empty or longer than the model has learnt.
            UnsupportedError: the model cannot explain.
            AtrilError: as `ContinuousDecoder.submit`.
        """
        source = self._encode(text)
        decoder = self._explainer if options.explain else self._decoder
        if decoder is None:
            raise UnsupportedError(
                f"model '{self._model_name}' has no attention to explain its translations with"
            )
        writer = _Writer(self._tokenizer, written)
        generation = decoder.submit(
            source, self._task.bos_id, self._search(options), writer.add, deadline_s
        )
        answer: asyncio.Future[list[Translation]] = asyncio.get_running_loop().create_future()

        def finished(result: "asyncio.Future[list[Hypothesis]]") -> None:
            if answer.done():
                return
            if result.cancelled():
                answer.cancel()
            elif (error := result.exception()) is not None:
                answer.set_exception(error)
            else:
                translations = [self._translation(found, source) for found in result.result()]
                writer.end(translations[0].text)
                answer.set_result(translations)

        generation.result.add_done_callback(finished)
        answer.add_done_callback(
            lambda ended: generation.result.cancel() if ended.cancelled() else None
        )
        return answer

    async def close(self) -> None:
        """End what was accepted."""
        decoders = (self._decoder, self._explainer)
        await asyncio.gather(*(decoder.close() for decoder in decoders if decoder is not None))

    def _encode(self, text: str) -> list[int]:
        most = self._task.max_source_length
        if not text.strip():
            raise InvalidInputError("the text is empty: expected a sentence to translate")
        if len(text) > self._most_characters:
            raise InvalidInputError(
                f"the text has {len(text)} characters, which are more than the {most} tokens that "
                f"model '{self._model_name}' has learnt to read"
            )
        tokens = [*self._tokenizer.encode(text).ids, self._task.eos_id]
        if len(tokens) > most:
            raise InvalidInputError(
                f"the text has {len(tokens)} tokens with the end token: model "
                f"'{self._model_name}' has learnt to read at most {most}"
            )
        return tokens

    def _search(self, options: TranslationOptions) -> Search:
        end = self._task.eos_id
        if options.beam == 1:
            return GreedySearch(end, options.max_length, options.length_penalty)
        return BeamSearch(
            end, options.max_length, options.beam, options.length_penalty, options.n_best
        )

    def _translation(self, found: Hypothesis, source: Sequence[int]) -> Translation:
        text = self._tokenizer.decode(list(found.tokens))
        if not found.attention:
            return Translation(text, found.score, found.finished)
        target = (*found.tokens, self._task.eos_id) if found.finished else found.tokens
        return Translation(
            text,
            found.score,
            found.finished,
            self._names(source),
            self._names(target),
            tuple(weights[: len(source)] for weights in found.attention),
        )

    def _names(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Each token as people read it; special ones keep their names."""
        return tuple(
            self._tokenizer.decode([token], skip_special_tokens=False)
            if token not in self._special
            else str(self._tokenizer.id_to_token(token))
            for token in tokens
        )

    @property
    def _special(self) -> tuple[int, ...]:
        return (self._task.pad_id, self._task.bos_id, self._task.eos_id)


class _Writer:
    """Tells a text in pieces, as its tokens become certain."""

    def __init__(self, tokenizer: Tokenizer, written: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._written = written
        self._tokens: list[int] = []
        self._told = 0

    def add(self, token: int) -> None:
        """Tell what the token adds, once its last character is whole."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if text.endswith(_UNFINISHED):
            return
        self.end(text)

    def end(self, text: str) -> None:
        """Tell what is left of the whole text."""
        piece, self._told = text[self._told :], len(text)
        if piece:
            self._written(piece)


def _whole(given: dict[str, ParameterValue], name: str, default: int, most: int) -> int:
    value = given.pop(name, min(default, most))
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidInputError(
            f"parameter '{name}': expected a whole number from 1 to {most}, got {value!r}"
        )
    return value


def _penalty(given: dict[str, ParameterValue], default: float) -> float:
    value = given.pop("length_penalty", default)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= LARGEST_LENGTH_PENALTY
    ):
        raise InvalidInputError(
            f"parameter 'length_penalty': expected a number from 0 to {LARGEST_LENGTH_PENALTY:g}, "
            f"got {value!r}"
        )
    return float(value)


def _flag(given: dict[str, ParameterValue], name: str) -> bool:
    value = given.pop(name, False)
    if not isinstance(value, bool):
        raise InvalidInputError(f"parameter '{name}': expected true or false, got {value!r}")
    return value
