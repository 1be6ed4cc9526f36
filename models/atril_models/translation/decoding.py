"""Greedy and beam search over anything that keeps the step contract.

The search asks its model for one step at a time, by name, so that a PyTorch network and a pair of
exported graphs are driven by the same lines. It is the reference that a server's engine is held
against, hence its rules are spelled out:

- A hypothesis' log-probability is the sum of those of its tokens, the end token among them.
- Its score is that sum over ((5 + n) / 6)^a, n its number of tokens with the end token and a the
  length penalty (Wu et al. 2016, arXiv:1609.08144, equation 14, without the coverage term).
- At each step, of all continuations of a source's hypotheses, the 2K with the highest sums are
  looked at in order, K being the beam's width. One that ends is finished if it is among the first
  K, and dropped otherwise; of those that do not end the first K go on.
- A source's search ends when K hypotheses are finished, or at the longest target allowed. Those
  that go on then are unfinished hypotheses, and come after all finished ones.

With K = 1 this is greedy search: the likeliest token each time, until it is the end token.

Dimensions: R rows, one for each hypothesis that goes on; B sources; P room for past positions;
V vocabulary; K beam.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from atril_models.translation.contract import (
    BATCH,
    CACHE,
    StepContract,
    next_state_name,
    update_name,
)

_CACHE_BUCKET = 16
"""Room for past positions is added in steps of this size."""


class StepModel(Protocol):
    """What the search needs of a model."""

    @property
    def contract(self) -> StepContract:
        """Names and shapes of what the other two take and give."""

    def encode(self, source: Tensor, source_length: Tensor) -> Mapping[str, Tensor]:
        """The encoder's outputs by name."""

    def step(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The decoder's outputs by name; `attention` may be among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How to search.

    Args:
        bos_id, eos_id: the tokens that begin and end a target.
        max_length: tokens of a target at most, with the end token.
        beam: hypotheses kept for each source; 1 is greedy search.
        length_penalty: a; 0 compares plain log-probabilities.
        n_best: hypotheses returned for each source.
        explain: whether to note the attention of each token.

    Raises:
        ValueError: a number is too small, or more are to be returned than kept.
    """

    bos_id: int
    eos_id: int
    max_length: int
    beam: int = 1
    length_penalty: float = 0.0
    n_best: int = 1
    explain: bool = False

    def __post_init__(self) -> None:
        if self.max_length < 1 or self.beam < 1 or self.length_penalty < 0:
            raise ValueError(
                "a search needs max_length and beam of at least 1 and a length_penalty of at "
                f"least 0, got {self.max_length}, {self.beam} and {self.length_penalty}"
            )
        if not 1 <= self.n_best <= self.beam:
            raise ValueError(f"n_best must lie between 1 and beam {self.beam}, got {self.n_best}")

    def score(self, log_probability: float, length: int) -> float:
        """Of a hypothesis of so many tokens, the end token among them."""
        penalty: float = ((5 + length) / 6) ** self.length_penalty
        return log_probability / penalty


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A target found, or the beginning of one.

    Args:
        tokens: without begin and end.
        log_probability: of its tokens, in nats.
        score: by which it is ranked.
        finished: whether it ends with the end token.
        attention: for each of its tokens, with the end token, the weights of the source's
            positions; empty unless the search explains.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool
    attention: tuple[tuple[float, ...], ...] = ()


def decode(
    model: StepModel, source: Tensor, source_length: Tensor, search: Search
) -> list[list[Hypothesis]]:
    """Search targets for a batch of sources; what is found for one does not depend on the others.

    Args:
        model: what to ask; a network should be in eval mode.
        source: int64 [B, S], padded on the right.
        source_length: int64 [B].
        search: how.

    Returns:
        For each source its `n_best` hypotheses, best first.

    Raises:
        ValueError: the search is to explain, and the model does not attend.
    """
    if search.explain and not model.contract.attends:
        raise ValueError("this model has no attention to explain its targets with")
    with torch.inference_mode():
        rows = _Rows(model, source, source_length)
        beams = [_Beam(search) for _ in source]
        for _ in range(search.max_length):
            tokens = [partial.tokens[-1] for beam in beams for partial in beam.partials]
            answers = rows.step(tokens, search)
            kept: list[int] = []  # the rows that go on, one for each partial hypothesis
            first = 0
            for beam in beams:
                after = first + len(beam.partials)
                kept += [first + row for row in beam.advance(answers[first:after])]
                first = after
            if not kept:
                break
            rows.keep(kept)
    return [beam.results() for beam in beams]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the model says of one row: its likeliest next tokens, and where it looked."""

    tokens: list[int]
    log_probabilities: list[float]
    attention: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class _Partial:
    """A hypothesis that goes on; its tokens start with the begin token."""

    tokens: tuple[int, ...]
    log_probability: float = 0.0
    attention: tuple[tuple[float, ...], ...] = ()

    def extended(self, token: int, log_probability: float, answer: _Answer) -> "_Partial":
        seen = () if answer.attention is None else (answer.attention,)
        return _Partial((*self.tokens, token), log_probability, (*self.attention, *seen))


class _Beam:
    """The hypotheses of one source."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._finished: list[Hypothesis] = []
        self.partials = [_Partial((search.bos_id,))]

    def advance(self, answers: Sequence[_Answer]) -> list[int]:
        """Take one step; for each hypothesis that goes on, which of the old ones it continues."""
        width = self._search.beam
        candidates = sorted(
            (-(partial.log_probability + log_probability), row, token)
            for row, (partial, answer) in enumerate(zip(self.partials, answers, strict=True))
            for token, log_probability in zip(answer.tokens, answer.log_probabilities, strict=True)
        )
        parents: list[int] = []
        going_on: list[_Partial] = []
        for rank, (negated, row, token) in enumerate(candidates[: 2 * width]):
            extended = self.partials[row].extended(token, -negated, answers[row])
            if token != self._search.eos_id:
                if len(going_on) < width:
                    going_on.append(extended)
                    parents.append(row)
            elif rank < width:
                self._finished.append(self._hypothesis(extended, finished=True))
        if len(self._finished) >= width:
            going_on, parents = [], []
        self.partials = going_on
        return parents

    def results(self) -> list[Hypothesis]:
        """The best, those that are finished first."""
        unfinished = (self._hypothesis(partial, finished=False) for partial in self.partials)
        ranked = sorted(
            (*self._finished, *unfinished), key=lambda found: (not found.finished, -found.score)
        )
        return ranked[: self._search.n_best]

    def _hypothesis(self, partial: _Partial, *, finished: bool) -> Hypothesis:
        tokens = partial.tokens[1:]
        return Hypothesis(
            tokens=tokens[:-1] if finished else tokens,
            log_probability=partial.log_probability,
            score=self._search.score(partial.log_probability, len(tokens)),
            finished=finished,
            attention=partial.attention,
        )


class _Rows:
    """The model's tensors, one row for each hypothesis that goes on; all are equally long."""

    def __init__(self, model: StepModel, source: Tensor, source_length: Tensor) -> None:
        self._model = model
        self._contract = contract = model.contract
        encoded = model.encode(source, source_length)
        self._source_length = source_length.tolist()
        self._memory = {spec.name: encoded[spec.name] for spec in contract.memory}
        self._memory["source_length"] = source_length
        self._state = {spec.name: encoded[spec.name] for spec in contract.states}
        room = {BATCH: len(source), CACHE: _CACHE_BUCKET}
        self._cache = {spec.name: spec.zeros(room).to(source.device) for spec in contract.caches}
        self._source_of_row = list(range(len(source)))
        self._length = 0

    def step(self, tokens: list[int], search: Search) -> list[_Answer]:
        """Ask the model what may follow these tokens, one for each row."""
        token = torch.tensor(tokens, device=self._memory["source_length"].device)
        length = torch.full_like(token, self._length)
        tensors = {"token": token, "position": length, "cache_length": length}
        tensors |= self._memory | self._state | self._cache
        named = {spec.name: tensors[spec.name] for spec in self._contract.decoder_inputs}
        outputs = self._model.step(named)
        self._remember(outputs)
        log_probabilities = torch.log_softmax(outputs["logits"].float(), dim=-1)
        count = min(2 * search.beam, self._contract.vocabulary)
        best, best_tokens = log_probabilities.topk(count)
        attention = self._attention(outputs) if search.explain else [None] * len(tokens)
        return [
            _Answer(*row)
            for row in zip(best_tokens.tolist(), best.tolist(), attention, strict=True)
        ]

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows, in this order; a row may go on more than once."""
        index = torch.tensor(rows, device=self._memory["source_length"].device)
        sources = [self._source_of_row[row] for row in rows]
        if rows != list(range(len(self._source_of_row))):
            self._state, self._cache = _select(self._state, index), _select(self._cache, index)
        if sources != self._source_of_row:  # else each row's memory is what it was
            self._memory = _select(self._memory, index)
            self._source_of_row = sources

    def _remember(self, outputs: Mapping[str, Tensor]) -> None:
        self._state = {name: outputs[next_state_name(name)] for name in self._state}
        for name, cache in self._cache.items():
            if self._length == cache.shape[-2]:
                cache = functional.pad(cache, (0, 0, 0, _CACHE_BUCKET))
                self._cache[name] = cache
            cache[..., self._length : self._length + 1, :] = outputs[update_name(name)]
        self._length += 1

    def _attention(self, outputs: Mapping[str, Tensor]) -> list[tuple[float, ...]]:
        lengths = (self._source_length[source] for source in self._source_of_row)
        weights = outputs["attention"].tolist()
        return [tuple(row[:length]) for row, length in zip(weights, lengths, strict=True)]


def _select(tensors: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: tensor.index_select(0, rows) for name, tensor in tensors.items()}
