"""Search against enumeration, against the rules it states, and over every network."""

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from atril_models.translation import Hypothesis, Search, StepContract, TensorSpec, decode
from tests.support.slim_translators import BOS, EOS, SLIM, random_tokens, slim_translator

every_form = pytest.mark.parametrize("form", list(SLIM))
LENGTHS = torch.tensor([6, 1, 4, 2])
SOURCE = random_tokens(4, 6)


class Table:
    """A model whose next token depends on the source's first token and the last two alone.

    Its state is the token before the last, so that a search that mixes up its rows is found out.
    """

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn((vocabulary,) * 4, generator=generator)
        self.contract = StepContract(
            vocabulary=vocabulary,
            memory=(TensorSpec("memory_first", ("batch",), torch.int64),),
            states=(TensorSpec("state_before", ("batch",), torch.int64),),
        )

    def encode(self, source: Tensor, source_length: Tensor) -> Mapping[str, Tensor]:
        """The first token, and a beginning."""
        return {"memory_first": source[:, 0], "state_before": torch.zeros_like(source_length)}

    def step(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One row of the table."""
        token = inputs["token"]
        logits = self.logits[inputs["memory_first"], inputs["state_before"], token]
        return {"logits": logits, "next_state_before": token}

    def log_probability(self, first: int, tokens: tuple[int, ...]) -> float:
        """Of a target with its end token, by multiplying its conditionals."""
        total, before, last = 0.0, 0, BOS
        for token in tokens:
            total += float(torch.log_softmax(self.logits[first, before, last], -1)[token])
            before, last = last, token
        return total


def _all_targets(model: Table, first: int, longest: int) -> dict[tuple[int, ...], float]:
    """Log-probability of each target that ends within so many tokens, the end token among them."""
    words = [token for token in range(model.contract.vocabulary) if token != EOS]
    return {
        tokens: model.log_probability(first, (*tokens, EOS))
        for length in range(longest)
        for tokens in itertools.product(words, repeat=length)
    }


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_the_best_of_all_targets(seed: int, penalty: float) -> None:
    """With room for every target the n-best list is that of enumeration, scores and order."""
    model, longest = Table(4, seed), 4
    search = Search(
        bos_id=BOS, eos_id=EOS, max_length=longest, beam=200, length_penalty=penalty, n_best=10
    )
    found = decode(model, torch.tensor([[0], [3]]), torch.tensor([1, 1]), search)
    for first, hypotheses in zip((0, 3), found, strict=True):
        everything = _all_targets(model, first, longest)
        scores = {t: p / ((6 + len(t)) / 6) ** penalty for t, p in everything.items()}
        best = sorted(scores, key=lambda tokens: -scores[tokens])[:10]
        assert [one.tokens for one in hypotheses] == best
        assert [one.score for one in hypotheses] == pytest.approx([scores[t] for t in best])
        assert [one.log_probability for one in hypotheses] == pytest.approx(
            [everything[t] for t in best]
        )
        assert all(one.finished for one in hypotheses)


def test_length_penalty_prefers_longer_targets() -> None:
    """Twice the tokens at twice the cost lose without a penalty and win with one of 1."""
    plain, penal = (
        Search(bos_id=BOS, eos_id=EOS, max_length=9, length_penalty=a) for a in (0.0, 1.0)
    )
    assert plain.score(-2.0, 2) > plain.score(-2.5, 4)
    assert penal.score(-2.0, 2) < penal.score(-2.5, 4)
    assert penal.score(-3.0, 7) == pytest.approx(-1.5)


def test_a_search_ends_when_as_many_are_finished_as_the_beam_is_wide() -> None:
    """Ending at once is likeliest: greedy search takes it, two hypotheses go one step further."""
    model = Table(4)
    model.logits[..., EOS] = 5.0
    source, length = torch.tensor([[0]]), torch.tensor([1])
    for beam, lengths in ((1, {0}), (2, {0, 1})):
        search = Search(bos_id=BOS, eos_id=EOS, max_length=9, beam=beam, n_best=beam)
        (found,) = decode(model, source, length, search)
        assert {len(one.tokens) for one in found} == lengths


def test_what_does_not_end_in_time_is_returned_unfinished() -> None:
    """At the longest target allowed the hypotheses are cut, say so, and follow finished ones."""
    model = Table(4)
    model.logits[..., EOS] = -20.0
    search = Search(bos_id=BOS, eos_id=EOS, max_length=3, beam=2, n_best=2)
    (found,) = decode(model, torch.tensor([[0]]), torch.tensor([1]), search)
    assert [len(one.tokens) for one in found] == [3, 3]
    assert not any(one.finished for one in found)

    model.logits[0, BOS, :, EOS] = 0.5  # the second token may end it, if only just
    (found,) = decode(model, torch.tensor([[0]]), torch.tensor([1]), search)
    assert sorted((one.finished for one in found), reverse=True) == [o.finished for o in found]


def _greedy(form: str, longest: int) -> list[tuple[int, ...]]:
    """The likeliest token each time, by the teacher-forced logits of all tokens so far."""
    network = slim_translator(form)
    tokens = torch.full((len(SOURCE), 1), BOS)
    with torch.no_grad():
        for _ in range(longest):
            logits = network(SOURCE, LENGTHS, tokens)
            tokens = torch.cat((tokens, logits[:, -1:].argmax(-1)), 1)
    rows: list[list[int]] = tokens[:, 1:].tolist()
    return [tuple(itertools.takewhile(lambda token: token != EOS, row)) for row in rows]


@every_form
def test_a_beam_of_one_is_greedy_search(form: str) -> None:
    """For sources of several lengths in one batch, and more steps than the first cache has room."""
    search = Search(bos_id=BOS, eos_id=EOS, max_length=18)
    found = decode(slim_translator(form), SOURCE, LENGTHS, search)
    assert [one.tokens for (one,) in found] == _greedy(form, 18)


@every_form
def test_a_source_is_translated_alike_in_any_batch(form: str) -> None:
    """Alone, its beams have the tokens and scores that they have beside others."""
    network = slim_translator(form)
    search = Search(bos_id=BOS, eos_id=EOS, max_length=8, beam=3, length_penalty=0.6, n_best=3)
    together = decode(network, SOURCE, LENGTHS, search)
    for row, expected in enumerate(together):
        (alone,) = decode(network, SOURCE[[row]], LENGTHS[[row]], search)
        assert [one.tokens for one in alone] == [one.tokens for one in expected]
        assert [o.score for o in alone] == pytest.approx([o.score for o in expected], abs=1e-5)


@every_form
def test_scores_are_those_of_the_teacher_forced_network(form: str) -> None:
    """A hypothesis' log-probability is the sum of its tokens' in `forward`."""
    network = slim_translator(form)
    search = Search(bos_id=BOS, eos_id=EOS, max_length=6, beam=4, n_best=4)
    for row, hypotheses in enumerate(decode(network, SOURCE, LENGTHS, search)):
        for one in hypotheses:
            tokens = [*one.tokens, EOS] if one.finished else [*one.tokens]
            with torch.no_grad():
                given = torch.tensor([[BOS, *tokens[:-1]]])
                logits = network(SOURCE[[row]], LENGTHS[[row]], given)[0]
            chosen = torch.log_softmax(logits, -1)[range(len(tokens)), tokens]
            assert one.log_probability == pytest.approx(chosen.sum().item(), abs=1e-4)


def test_attention_is_noted_for_each_token() -> None:
    """One row a token, over the source's own positions, each summing to 1."""
    search = Search(bos_id=BOS, eos_id=EOS, max_length=5, beam=2, n_best=2, explain=True)
    for hypotheses, length in zip(
        decode(slim_translator("bahdanau"), SOURCE, LENGTHS, search), LENGTHS.tolist(), strict=True
    ):
        for one in hypotheses:
            assert len(one.attention) == len(one.tokens) + one.finished
            assert all(len(row) == length for row in one.attention)
            assert all(math.isclose(sum(row), 1, abs_tol=1e-5) for row in one.attention)


def test_attention_follows_the_hypothesis_it_belongs_to() -> None:
    """The rows noted are those of the step-by-step run of the same tokens."""
    network = slim_translator("transformer")
    search = Search(bos_id=BOS, eos_id=EOS, max_length=4, beam=3, n_best=3, explain=True)
    (hypotheses,) = decode(network, SOURCE[:1], LENGTHS[:1], search)
    for one in hypotheses:
        noted = torch.tensor(one.attention)
        forced = _forced_attention(network, one)
        torch.testing.assert_close(noted, forced, rtol=0, atol=1e-5)


def _forced_attention(network: object, hypothesis: Hypothesis) -> Tensor:
    """Attention when the model can give no token but the hypothesis' next one."""

    class Forced:
        contract = network.contract  # type: ignore[attr-defined]
        encode = staticmethod(network.encode)  # type: ignore[attr-defined]
        remaining = iter([*hypothesis.tokens, EOS])

        def step(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            outputs = dict(network.step(inputs))  # type: ignore[attr-defined]
            outputs["logits"] = torch.full_like(outputs["logits"], -1e9)
            outputs["logits"][:, next(self.remaining)] = 0
            return outputs

    longest = len(hypothesis.tokens) + hypothesis.finished
    search = Search(bos_id=BOS, eos_id=EOS, max_length=longest, explain=True)
    ((found,),) = decode(Forced(), SOURCE[:1], LENGTHS[:1], search)
    return torch.tensor(found.attention)


def test_a_model_that_does_not_attend_cannot_explain() -> None:
    """It is refused before anything is computed."""
    search = Search(bos_id=BOS, eos_id=EOS, max_length=5, explain=True)
    with pytest.raises(ValueError, match="no attention to explain its targets with"):
        decode(slim_translator("rnn-encoder-decoder"), SOURCE, LENGTHS, search)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "at least 0, got 0, 1 and 0.0"),
        ({"beam": 0}, "got 9, 0 and"),
        ({"length_penalty": -0.5}, "got 9, 1 and -0.5"),
        ({"beam": 2, "n_best": 3}, "n_best must lie between 1 and beam 2, got 3"),
        ({"n_best": 0}, "between 1 and beam 1, got 0"),
    ],
    ids=["length", "beam", "penalty", "more than kept", "none"],
)
def test_impossible_searches_are_refused(options: dict[str, float], message: str) -> None:
    """The error has the numbers that were given."""
    with pytest.raises(ValueError, match=message):
        Search(bos_id=BOS, eos_id=EOS, **{"max_length": 9, **options})  # type: ignore[arg-type]
