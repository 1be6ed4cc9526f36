"""Attention: additive, scaled dot-product, multi-head.

Each attention answers with its weights first and what they select second.

Dimensions: B batch, H heads, T queries, S keys, P cached positions, N state, A alignment units,
W annotation, D model, d one head.
"""

import math

import torch
from torch import Tensor, nn

from atril_models.accounting import Work, count_work


def length_mask(length: Tensor, positions: int) -> Tensor:
    """True where a position lies within its row's length.

    Shape: length int64 [B]; returns bool [B, positions].
    """
    return torch.arange(positions, device=length.device) < length[:, None]


def causal_mask(positions: int, device: torch.device) -> Tensor:
    """True where a position (row) may see another (column): itself and what lies before it."""
    index = torch.arange(positions, device=device)
    return index <= index[:, None]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis in which masked-out positions get exactly 0.

    A row without any position that counts gets equal weights rather than NaN, so that an unused
    row of a batch stays finite.

    Shape: scores [..., S]; mask bool, broadcast to them.
    """
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(torch.where(mask, scores, lowest), dim=-1)


class AdditiveAttention(nn.Module):
    """Weigh annotations by a small network of the decoder's state and each of them.

    e_tj = v' tanh(W s_(t-1) + U h_j);  alpha_t = softmax(e_t);  c_t = sum_j alpha_tj h_j

    U h_j does not depend on t: it is computed once, outside, and given as the keys.

    Source: Bahdanau, Cho & Bengio 2015, arXiv:1409.0473, §3.1 and A.1.2; lecture equations 6.1.7
    to 6.1.9, which leave the alignment model a(s, h) open.

    Args:
        state_size: N.
        alignment_size: A.
        annotation_size: W.
    """

    def __init__(self, state_size: int, alignment_size: int, annotation_size: int) -> None:
        super().__init__()
        self.annotation_size = annotation_size
        self.query = nn.Linear(state_size, alignment_size, bias=False)
        self.score = nn.Linear(alignment_size, 1, bias=False)

    def forward(
        self, state: Tensor, keys: Tensor, annotations: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weights alpha_t [B, S] and context c_t [B, W].

        Shape: state [B, N]; keys [B, S, A]; annotations [B, S, W]; mask bool [B, S].
        """
        hidden = torch.tanh(self.query(state)[:, None] + keys)  # [B, S, A]
        weights = masked_softmax(self.score(hidden).squeeze(-1), mask)  # [B, S]
        return weights, torch.bmm(weights[:, None], annotations).squeeze(1)


@count_work.register
def _(layer: AdditiveAttention, output_shape: tuple[int, ...]) -> Work:
    """W s once, v and the weighted mean once a position; the mean multiplies no parameter."""
    (positions,) = output_shape
    query, score = layer.query.weight.numel(), layer.score.weight.numel()
    connections = query + positions * score
    return Work(connections, connections + positions * layer.annotation_size)


class ScaledDotProductAttention(nn.Module):
    """softmax(Q K' / sqrt(d)) V.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.2.1; lecture equation 6.2.1. Without the
    scale, scores of unit-variance queries and keys would have variance d.

    Args:
        head_size: d.
    """

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weights [B, H, T, S] and context [B, H, T, d].

        Shape: query [B, H, T, d]; key and value [B, H, S, d]; mask bool, broadcast to
        [B, H, T, S].
        """
        scores = (query / math.sqrt(self.head_size)) @ key.transpose(-1, -2)
        weights = masked_softmax(scores, mask)
        return weights, weights @ value


@count_work.register
def _(layer: ScaledDotProductAttention, output_shape: tuple[int, ...]) -> Work:
    """Two products, of queries with keys and of weights with values, and no parameter."""
    return Work(0, 2 * math.prod(output_shape) * layer.head_size)


class MultiHeadAttention(nn.Module):
    """Attention by several heads side by side, each in a projection of its own.

    MultiHead(Q, K, V) = Concat(head_1, …, head_H) W^O,
    head_i = Att(Q W_i^Q, K W_i^K, V W_i^V), d = D / H

    The projections of all heads lie in one matrix each.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.2.2; lecture equation 6.2.2.

    Args:
        model_size: D.
        heads: H.
        bias: whether the four projections have one; those of the paper's equations have none.

    Raises:
        ValueError: D is no multiple of H.
    """

    def __init__(self, model_size: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        if heads < 1 or model_size % heads:
            raise ValueError(
                f"the model size must be a multiple of the heads, got {model_size} and {heads}"
            )
        self.heads = heads
        self.head_size = model_size // heads
        self.query = nn.Linear(model_size, model_size, bias=bias)
        self.key = nn.Linear(model_size, model_size, bias=bias)
        self.value = nn.Linear(model_size, model_size, bias=bias)
        self.attention = ScaledDotProductAttention(self.head_size)
        self.output = nn.Linear(model_size, model_size, bias=bias)

    def memory(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to, each [B, H, S, d], of inputs [B, S, D]."""
        return self._split(self.key(inputs)), self._split(self.value(inputs))

    def forward(
        self, inputs: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weights [B, H, T, S] and outputs [B, T, D].

        Shape: inputs [B, T, D]; key and value as `memory` gives them; mask bool, broadcast to
        [B, H, T, S].
        """
        weights, context = self.attention(self._split(self.query(inputs)), key, value, mask)
        return weights, self.output(context.transpose(1, 2).flatten(2))

    def step(
        self, inputs: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One query a row: weights [B, H, S] and outputs [B, D].

        The same as `forward` with T = 1, with the product taken as K q, so that nothing of the
        memory's size is transposed.

        Shape: inputs [B, D]; key and value [B, H, S, d]; mask bool [B, 1, S].
        """
        query = self._split_one(self.query(inputs)) / math.sqrt(self.head_size)
        scores = (key @ query[..., None]).squeeze(-1)  # [B, H, S]
        weights = masked_softmax(scores, mask)
        return weights, self.output((weights[:, :, None] @ value).flatten(1))

    def step_with_cache(
        self, inputs: Tensor, cached_key: Tensor, cached_value: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One query a row that sees what a mask leaves of a cache, and itself.

        Past and new position are scored apart and meet in the softmax: the cache is only read.

        Shape: inputs [B, D]; cached_key and cached_value [B, H, P, d]; mask bool [B, 1, P].

        Returns:
            Outputs [B, D], and key and value [B, H, 1, d] of the new position.
        """
        query = self._split_one(self.query(inputs)) / math.sqrt(self.head_size)
        key, value = self._split_one(self.key(inputs)), self._split_one(self.value(inputs))
        past = (cached_key @ query[..., None]).squeeze(-1)  # [B, H, P]
        past = torch.where(mask, past, torch.finfo(past.dtype).min)
        new = (query * key).sum(-1, keepdim=True)  # [B, H, 1]
        weights = torch.softmax(torch.cat((past, new), dim=-1), dim=-1)  # [B, H, P + 1]
        context = (weights[:, :, None, :-1] @ cached_value).squeeze(2) + weights[..., -1:] * value
        return self.output(context.flatten(1)), key[:, :, None], value[:, :, None]

    def _split(self, inputs: Tensor) -> Tensor:
        """[B, T, D] to [B, H, T, d]."""
        return inputs.view(*inputs.shape[:2], self.heads, self.head_size).transpose(1, 2)

    def _split_one(self, inputs: Tensor) -> Tensor:
        """[B, D] to [B, H, d]."""
        return inputs.view(-1, self.heads, self.head_size)
