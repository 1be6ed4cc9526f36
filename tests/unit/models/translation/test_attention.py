"""Attention against the library's, and the properties that its formulas promise."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.translation.attention import (
    AdditiveAttention,
    MultiHeadAttention,
    ScaledDotProductAttention,
    causal_mask,
    length_mask,
    masked_softmax,
)

EVERYTHING = torch.ones(1, dtype=torch.bool)


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_masked_softmax_gives_nothing_to_what_is_masked() -> None:
    """Rows sum to 1; masked positions get exactly 0, even beside scores of -1e4 and +1e4."""
    scores = torch.tensor([[-1e4, 1e4, 3.0], [-1e4, 2.0, 1e4]])
    weights = masked_softmax(scores, length_mask(torch.tensor([3, 2]), 3))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2))
    assert weights[1, 2] == 0
    assert weights[0, 1] == 1


def test_masked_softmax_of_nothing_is_finite() -> None:
    """A row of which nothing counts gets equal weights, not NaN."""
    weights = masked_softmax(torch.tensor([[1.0, 5.0]]), torch.tensor([[False, False]]))
    assert weights.tolist() == [[0.5, 0.5]]


def test_scaled_dot_product_equals_the_librarys() -> None:
    """Outputs and the gradients of query, key and value are those of torch's function."""
    query, key, value = (_random(2, 3, size, 8, seed=seed) for seed, size in enumerate((4, 5, 5)))
    ours = [part.clone().requires_grad_() for part in (query, key, value)]
    theirs = [part.clone().requires_grad_() for part in (query, key, value)]
    mask = length_mask(torch.tensor([5, 2]), 5)[:, None, None]

    _, context = ScaledDotProductAttention(8)(*ours, mask)
    expected = functional.scaled_dot_product_attention(*theirs, attn_mask=mask)

    torch.testing.assert_close(context, expected, rtol=0, atol=1e-12)
    pull = _random(*context.shape, seed=7)
    context.backward(pull)
    expected.backward(pull)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def _copied(ours: MultiHeadAttention) -> nn.MultiheadAttention:
    size = ours.query.in_features
    theirs = nn.MultiheadAttention(size, ours.heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    return theirs


def test_multi_head_equals_the_librarys_with_the_same_weights() -> None:
    """Outputs, mean weights, and the gradients of the inputs and of every projection agree."""
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 3, bias=True).double()
    theirs = _copied(ours)
    query, memory = _random(2, 4, 12), _random(2, 5, 12, seed=1)
    mine = [part.clone().requires_grad_() for part in (query, memory)]
    others = [part.clone().requires_grad_() for part in (query, memory)]
    mask = length_mask(torch.tensor([5, 3]), 5)

    weights, outputs = ours(mine[0], *ours.memory(mine[1]), mask[:, None, None])
    expected, expected_weights = theirs(others[0], others[1], others[1], key_padding_mask=~mask)

    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.mean(1), expected_weights, rtol=0, atol=1e-12)
    pull = _random(*outputs.shape, seed=7)
    outputs.backward(pull)
    expected.backward(pull)
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)
    parts = (ours.query, ours.key, ours.value)
    joined = torch.cat([part.weight.grad for part in parts if part.weight.grad is not None])
    torch.testing.assert_close(joined, theirs.in_proj_weight.grad, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        ours.output.weight.grad, theirs.out_proj.weight.grad, rtol=0, atol=1e-11
    )


def test_unscaled_scores_have_the_variance_of_the_head_size() -> None:
    """For unit-variance q and k the variance of q k is d, and 1 once divided by sqrt(d)."""
    size = 64
    query, key = _random(1, 1, 500, size), _random(1, 1, 500, size, seed=1)
    scores = query @ key.transpose(-1, -2)
    assert scores.var().item() == pytest.approx(size, rel=0.05)
    weights, _ = ScaledDotProductAttention(size)(query, key, key, EVERYTHING)
    # The softmax hides a constant of each row: its logarithm has the row-wise variance of scores.
    assert weights.log().var(-1).mean().item() == pytest.approx(1, rel=0.05)


def test_attention_does_not_know_the_order_of_positions() -> None:
    """Permuted inputs give permuted outputs: self-attention alone is permutation-equivariant."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2).double()
    inputs, order = _random(1, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    _, outputs = attention(inputs, *attention.memory(inputs), EVERYTHING)
    moved = inputs[:, order]
    _, permuted = attention(moved, *attention.memory(moved), EVERYTHING)
    torch.testing.assert_close(permuted, outputs[:, order], rtol=0, atol=1e-12)


def test_causal_mask_hides_the_future_bit_by_bit() -> None:
    """Changing position t leaves every output before t bitwise as it was, and changes t."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2)
    inputs = torch.randn(2, 7, 8)
    mask = causal_mask(7, inputs.device)
    _, before = attention(inputs, *attention.memory(inputs), mask)
    for changed in range(7):
        other = inputs.clone()
        other[:, changed] += 1
        _, after = attention(other, *attention.memory(other), mask)
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.equal(after[:, changed], before[:, changed])


def test_constant_scores_give_the_mean_of_what_counts() -> None:
    """With v = 0 all energies are equal, and the context is the mean of the real annotations."""
    attention = AdditiveAttention(4, 5, 6)
    nn.init.zeros_(attention.score.weight)
    annotations = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    mask = length_mask(torch.tensor([3, 2]), 3)
    weights, context = attention(torch.ones(2, 4), torch.randn(2, 3, 5), annotations, mask)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3] * 3, [0.5, 0.5, 0.0]]))
    torch.testing.assert_close(
        context, torch.stack([annotations[0].mean(0), annotations[1, :2].mean(0)])
    )


def test_additive_attention_is_its_formula() -> None:
    """e_j = v' tanh(W s + U h_j), softmax, weighted sum: written out for one row with loops."""
    torch.manual_seed(0)
    attention = AdditiveAttention(3, 4, 2)
    state, keys, annotations = torch.randn(1, 3), torch.randn(1, 5, 4), torch.randn(1, 5, 2)
    weights, context = attention(state, keys, annotations, length_mask(torch.tensor([4]), 5))
    v, w = attention.score.weight[0].detach(), attention.query.weight.detach()
    energies = [math.exp(float(v @ torch.tanh(w @ state[0] + keys[0, j]))) for j in range(4)]
    expected = torch.tensor([energy / sum(energies) for energy in energies])
    torch.testing.assert_close(weights[0], torch.cat((expected, torch.zeros(1))))
    torch.testing.assert_close(context[0], expected @ annotations[0, :4])


def test_one_query_equals_the_general_form() -> None:
    """`step` is `forward` with one query."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, bias=True).double()
    inputs, memory = _random(3, 8), attention.memory(_random(3, 5, 8, seed=1))
    mask = length_mask(torch.tensor([5, 1, 3]), 5)
    weights, outputs = attention(inputs[:, None], *memory, mask[:, None, None])
    one_weights, one = attention.step(inputs, *memory, mask[:, None])
    torch.testing.assert_close(one, outputs[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(one_weights, weights[:, :, 0], rtol=0, atol=1e-12)


def test_cached_positions_count_as_if_they_were_there() -> None:
    """A step over a cache equals full attention over past and new; what is beyond is ignored."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, bias=True).double()
    inputs = _random(1, 4, 8)
    key, value = attention.memory(inputs)
    _, expected = attention(inputs, key, value, causal_mask(4, inputs.device))
    room = [functional.pad(part[:, :, :3], (0, 0, 0, 2), value=1e3) for part in (key, value)]
    mask = length_mask(torch.tensor([3]), 5)[:, None]
    outputs, new_key, new_value = attention.step_with_cache(inputs[:, 3], room[0], room[1], mask)
    torch.testing.assert_close(outputs, expected[:, 3], rtol=0, atol=1e-12)
    torch.testing.assert_close(new_key, key[:, :, 3:], rtol=0, atol=1e-12)
    torch.testing.assert_close(new_value, value[:, :, 3:], rtol=0, atol=1e-12)


def test_heads_must_divide_the_model() -> None:
    """The error has both numbers."""
    with pytest.raises(ValueError, match="multiple of the heads, got 10 and 3"):
        MultiHeadAttention(10, 3)
