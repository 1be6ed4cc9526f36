"""The searches on logits that can be reckoned with by hand; against torch in test_scheduler."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_inference.decoding.search import Answer, BeamSearch, GreedySearch, likeliest

EOS = 2


def answer(**log_probabilities: float) -> Answer:
    """An answer of tokens `t<number>`, likeliest first."""
    ranked = sorted(log_probabilities.items(), key=lambda item: -item[1])
    return Answer([int(name[1:]) for name, _ in ranked], [value for _, value in ranked])


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 12), st.integers(1, 15))
def test_the_likeliest_are_those_of_a_full_sort(
    seed: int, rows: int, vocabulary: int, count: int
) -> None:
    """Tokens and log-probabilities are those that sorting a log-softmax gives."""
    logits = np.random.default_rng(seed).normal(size=(rows, vocabulary)).astype(np.float32) * 8
    before = logits.copy()

    tokens, values = likeliest(logits, count)

    count = min(count, vocabulary)
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    assert (tokens == np.argsort(-exact, axis=1, kind="stable")[:, :count]).all()
    assert np.take_along_axis(exact, tokens, axis=1) == pytest.approx(values, abs=1e-5)
    assert (logits == before).all()


def test_probabilities_of_large_logits_stay_finite() -> None:
    """The largest logit is taken off before the exponential."""
    tokens, values = likeliest(np.array([[1e4, -1e4, 1e4]], np.float32), 2)

    assert tokens.tolist() == [[0, 2]]
    assert values == pytest.approx(np.log(0.5) * np.ones((1, 2)))


def test_greedy_search_ends_with_the_end_token() -> None:
    """The end token counts in the score and is not one of the tokens."""
    search = GreedySearch(EOS, 9, length_penalty=1.0)

    assert search.advance([answer(t5=-0.5, t2=-1.0)]).tokens == (5,)
    assert search.advance([answer(t2=-0.25, t5=-2.0)]).parents == ()

    (found,) = search.results()
    assert (found.tokens, found.finished) == ((5,), True)
    assert found.log_probability == -0.75
    assert found.score == pytest.approx(-0.75 / (7 / 6))


def test_greedy_search_ends_at_the_longest_target() -> None:
    """A target that is cut off is not finished, and its last token is told."""
    search = GreedySearch(EOS, 2, length_penalty=0.0)
    search.advance([answer(t5=-0.5)])

    last = search.advance([answer(t6=-0.5)])

    assert (last.parents, last.written) == ((), 6)
    (found,) = search.results()
    assert (found.tokens, found.finished) == ((5, 6), False)


def test_a_beam_finds_what_greed_misses() -> None:
    """The likeliest first token leads to a less likely whole."""
    search = BeamSearch(EOS, 9, beam=2, length_penalty=0.0, n_best=2)
    first = search.advance([answer(t5=-0.1, t6=-0.5, t7=-3.0, t8=-4.0)])
    assert (first.parents, first.tokens) == ((0, 0), (5, 6))

    second = search.advance(
        [answer(t2=-2.0, t7=-2.5, t8=-5.0, t9=-5.5), answer(t2=-0.1, t7=-4.0, t8=-5.0, t9=-5.5)]
    )

    assert second.parents == ()
    assert [found.tokens for found in search.results()] == [(6,), (5,)]
    assert search.results()[0].log_probability == pytest.approx(-0.6)


def test_rows_of_a_beam_continue_the_row_that_was_best() -> None:
    """Both hypotheses that go on may continue the same one."""
    search = BeamSearch(EOS, 9, beam=2, length_penalty=0.0, n_best=1)
    search.advance([answer(t5=-0.1, t6=-3.0, t7=-4.0, t8=-4.0)])

    second = search.advance(
        [answer(t7=-0.5, t8=-0.6, t9=-9.0, t4=-9.0), answer(t7=-0.5, t8=-0.6, t9=-9.0, t4=-9.0)]
    )

    assert (second.parents, second.tokens) == ((0, 0), (7, 8))
