"""What goes on after each step: greedy search, beam search, sampling.

The rules of greedy and beam search are those of `atril_models.translation.decoding`, token by
token:

- A hypothesis' log-probability is the sum of those of its tokens, the end token among them.
- Its score is that sum over ((5 + n) / 6)^a, n its number of tokens with the end token and a the
  length penalty (Wu et al. 2016, arXiv:1609.08144, equation 14, without the coverage term).
- At each step, of all continuations, the 2K with the highest sums are looked at in order, K being
  the beam's width. One that ends is finished if it is among the first K, and dropped otherwise; of
  those that do not end the first K go on.
- The search ends when K hypotheses are finished, or at the longest target allowed.

Dimensions: n rows, V vocabulary, K beam.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from atril_common.tensors import Tensor


class Answer(NamedTuple):
    """What a step says of one row.

    `tokens` are its likeliest ones, likeliest first, with their `log_probabilities`; `attention`
    are the weights of the source's positions where they were asked for.
    """

    tokens: Sequence[int]
    log_probabilities: Sequence[float]
    attention: tuple[float, ...] | None = None


class Hypothesis(NamedTuple):
    """A target found, or the beginning of one.

    `tokens` leaves begin and end out; `attention` has one entry a token, with the end token.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool
    attention: tuple[tuple[float, ...], ...] = ()


class Advance(NamedTuple):
    """What a request does after a step.

    `parents` and `tokens` have one entry for each hypothesis that goes on: which of the rows it
    continues and its newest token; without one, the request has ended. `written` is the token that
    is certain by now, None where none is.
    """

    parents: tuple[int, ...]
    tokens: tuple[int, ...]
    written: int | None


class Search(Protocol):
    """The hypotheses of one request."""

    width: int
    """Most rows that it takes."""

    candidates: int
    """How many tokens of each row it looks at."""

    def advance(self, answers: Sequence[Answer]) -> Advance:
        """Take one step; there is one answer for each hypothesis that goes on, in their order."""
        ...

    def results(self) -> list[Hypothesis]:
        """What was found, best first."""
        ...


class GreedySearch:
    """The likeliest token each time, until it is the end token."""

    width = 1
    candidates = 1

    def __init__(self, eos_id: int, max_length: int, length_penalty: float) -> None:
        self._eos_id = eos_id
        self._max_length = max_length
        self._length_penalty = length_penalty
        self._tokens: list[int] = []
        self._log_probability = 0.0
        self._attention: list[tuple[float, ...]] = []
        self._finished = False

    def advance(self, answers: Sequence[Answer]) -> Advance:
        """See `Search.advance`."""
        (answer,) = answers
        token = answer.tokens[0]
        self._log_probability += answer.log_probabilities[0]
        if answer.attention is not None:
            self._attention.append(answer.attention)
        if token == self._eos_id:
            self._finished = True
            return Advance((), (), None)
        self._tokens.append(token)
        if len(self._tokens) == self._max_length:
            return Advance((), (), token)
        return Advance((0,), (token,), token)

    def results(self) -> list[Hypothesis]:
        """See `Search.results`."""
        length = len(self._tokens) + self._finished
        return [
            Hypothesis(
                tuple(self._tokens),
                self._log_probability,
                scored(self._log_probability, length, self._length_penalty),
                self._finished,
                tuple(self._attention),
            )
        ]


class _Partial(NamedTuple):
    """A hypothesis that goes on, as a chain to its beginning."""

    previous: "_Partial | None"
    token: int
    log_probability: float
    length: int
    attention: tuple[float, ...] | None


class BeamSearch:
    """The K hypotheses with the highest sums."""

    def __init__(
        self, eos_id: int, max_length: int, beam: int, length_penalty: float, n_best: int
    ) -> None:
        self.width = beam
        self.candidates = 2 * beam
        self._eos_id = eos_id
        self._max_length = max_length
        self._length_penalty = length_penalty
        self._n_best = n_best
        self._partials: list[_Partial | None] = [None]
        self._finished: list[Hypothesis] = []

    def advance(self, answers: Sequence[Answer]) -> Advance:
        """See `Search.advance`."""
        width = self.width
        candidates = sorted(
            (-((0.0 if partial is None else partial.log_probability) + log_probability), row, token)
            for row, (partial, answer) in enumerate(zip(self._partials, answers, strict=True))
            for token, log_probability in zip(answer.tokens, answer.log_probabilities, strict=True)
        )
        parents: list[int] = []
        going_on: list[_Partial] = []
        for rank, (negated, row, token) in enumerate(candidates[: 2 * width]):
            previous = self._partials[row]
            length = 1 if previous is None else previous.length + 1
            extended = _Partial(previous, token, -negated, length, answers[row].attention)
            if token != self._eos_id:
                if len(going_on) < width:
                    going_on.append(extended)
                    parents.append(row)
            elif rank < width:
                self._finished.append(self._hypothesis(extended, finished=True))
        if len(self._finished) >= width:
            self._partials = []
            return Advance((), (), None)
        self._partials = list(going_on)
        if not going_on or going_on[0].length == self._max_length:
            return Advance((), (), None)
        return Advance(tuple(parents), tuple(partial.token for partial in going_on), None)

    def results(self) -> list[Hypothesis]:
        """See `Search.results`; those that are finished come first."""
        unfinished = (
            self._hypothesis(partial, finished=False)
            for partial in self._partials
            if partial is not None
        )
        ranked = sorted(
            (*self._finished, *unfinished), key=lambda found: (not found.finished, -found.score)
        )
        return ranked[: self._n_best]

    def _hypothesis(self, last: _Partial, *, finished: bool) -> Hypothesis:
        tokens: list[int] = []
        attention: list[tuple[float, ...]] = []
        step: _Partial | None = last
        while step is not None:
            tokens.append(step.token)
            if step.attention is not None:
                attention.append(step.attention)
            step = step.previous
        tokens.reverse()
        attention.reverse()
        return Hypothesis(
            tuple(tokens[:-1] if finished else tokens),
            last.log_probability,
            scored(last.log_probability, len(tokens), self._length_penalty),
            finished,
            tuple(attention),
        )


def scored(log_probability: float, length: int, length_penalty: float) -> float:
    """The score of a hypothesis of so many tokens, the end token among them."""
    score: float = log_probability / ((5 + length) / 6) ** length_penalty
    return score


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, likeliest first, and their log-probabilities.

    Taking the largest again and again is faster than a partial sort for the few that a search
    looks at.

    Shape:
        float32 [n, V]; returns int64 [n, count] and float32 [n, count].
    """
    rows = np.arange(len(logits))
    count = min(count, logits.shape[1])
    tokens = np.empty((len(logits), count), np.int64)
    values = np.empty((len(logits), count), np.float32)
    tokens[:, 0] = logits.argmax(axis=1)
    values[:, 0] = largest = logits[rows, tokens[:, 0]]
    normalizer = np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    if count > 1:
        logits = logits.copy()
    for place in range(1, count):
        logits[rows, tokens[:, place - 1]] = -np.inf
        tokens[:, place] = logits.argmax(axis=1)
        values[:, place] = logits[rows, tokens[:, place]]
    values -= largest[:, None]
    values -= normalizer[:, None]
    return tokens, values
