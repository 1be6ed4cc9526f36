"""A causal character Transformer: a decoder without an encoder, as in nanoGPT.

Source: Karpathy, nanoGPT (the sizes of its `train_shakespeare_char`); Radford et al. 2019,
"Language models are unsupervised multitask learners"; the parts are those of Vaswani et al. 2017
(lecture 6.2) with the normalisation before each part.

Dimensions: B batch, T time steps, C channels, N heads, D = C / N, P past positions, V characters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.architecture import Network
from atril_models.recurrent.one_step import CACHE, OneStep

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, [B, N, P, D] each."""

_INIT_STD = 0.02


class CausalSelfAttention(nn.Module):
    """Several heads of scaled dot-product attention, each position to itself and those before.

    softmax(Q Kᵀ / √D) V for each head, the heads' results side by side through one dense layer.
    No biases: 4·C² parameters.

    Source: lecture 6.2.1 and 6.2.2.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [B, T, C]; returns the same."""
        query, key, value = self._split(x)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        return self._join(mixed)

    def step(self, x: Tensor, past: KeyValue, valid: Tensor) -> tuple[Tensor, KeyValue]:
        """One position on top of a cache that is only read.

        Past and new scores meet in the softmax, so that the cache is never copied to append to it.

        Shape:
            x [B, 1, C]; past [B, N, P, D] each; valid [B, 1, 1, P] bool, False for rows of the
            cache that hold nothing. Returns [B, 1, C] and the new key and value, [B, N, 1, D].
        """
        query, key, value = self._split(x)
        query = query * query.shape[-1] ** -0.5
        past_keys, past_values = past
        past_scores = (query @ past_keys.transpose(-2, -1)).masked_fill(~valid, float("-inf"))
        new_score = (query * key).sum(dim=-1, keepdim=True)  # [B, N, 1, 1]
        weights = torch.cat([past_scores, new_score], dim=-1).softmax(dim=-1)
        mixed = weights[..., :-1] @ past_values + weights[..., -1:] * value
        return self._join(mixed), (key, value)

    def _split(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values of all heads, [B, N, T, D] each."""
        batch, length, channels = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, channels // self.heads)
        return [part.transpose(1, 2) for part in parts.unbind(2)]

    def _join(self, mixed: Tensor) -> Tensor:
        joined: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return joined


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with 4·C hidden units and GELU.

    12·C² + 2·C parameters; the norms have a scale and no shift.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(channels, bias=False)
        self.attention = CausalSelfAttention(channels, heads, dropout)
        self.norm_2 = nn.LayerNorm(channels, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels, bias=False),
            nn.GELU(),
            nn.Linear(4 * channels, channels, bias=False),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [B, T, C]; returns the same."""
        return self._through_mlp(x + self.dropout(self.attention(self.norm_1(x))))

    def step(self, x: Tensor, past: KeyValue, valid: Tensor) -> tuple[Tensor, KeyValue]:
        """One position; the shapes are those of `CausalSelfAttention.step`."""
        attended, new = self.attention.step(self.norm_1(x), past, valid)
        return self._through_mlp(x + self.dropout(attended)), new

    def _through_mlp(self, x: Tensor) -> Tensor:
        raised: Tensor = x + self.dropout(self.mlp(self.norm_2(x)))
        return raised


class CharacterTransformer(Network):
    """The probability of each next character, given up to `context` before it.

    Embeddings of characters and of learned positions, pre-norm blocks, a last norm, and the
    character embeddings once more as the output layer. The defaults have 10,745,088 parameters,
    10,646,784 without the positions.

    Args:
        vocabulary: V.
        context: the longest text it reads.
        layers: blocks.
        heads: N.
        channels: C.
        dropout: share of what is dropped in attention weights, residual branches and embeddings.

    Shape:
        tokens [B, T] int64, each 0 … V-1, T ≤ context; returns logits [B, T, V] of the character
        that follows each.

    Raises:
        ValueError: a size below 1, channels that the heads cannot share, or dropout outside
            0 ≤ dropout < 1.
    """

    def __init__(
        self,
        vocabulary: int = 65,
        context: int = 256,
        *,
        layers: int = 6,
        heads: int = 6,
        channels: int = 384,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if min(vocabulary, context, layers, heads, channels) < 1 or channels % heads:
            raise ValueError(
                f"sizes must be at least 1 and channels a multiple of heads, got vocabulary "
                f"{vocabulary}, context {context}, layers {layers}, heads {heads}, "
                f"channels {channels}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must satisfy 0 <= dropout < 1, got {dropout}")
        self.vocabulary = vocabulary
        self.context = context
        self.cache_shape = (heads, channels // heads)
        self.characters = nn.Embedding(vocabulary, channels)
        self.positions = nn.Embedding(context, channels)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels, bias=False)
        self.output = nn.Linear(channels, vocabulary, bias=False)
        self.output.weight = self.characters.weight
        self._reset()

    def _reset(self) -> None:
        """Normal with σ = 0.02; what adds to the residual path, smaller by √(2·layers)."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=_INIT_STD)
        residual_std = _INIT_STD / (2 * len(self.blocks)) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=residual_std)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """The first character over and over, as often as fits."""
        return (torch.zeros(batch, self.context, dtype=torch.int64),)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next character at each position."""
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self.dropout(self.characters(tokens) + self.positions(places))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(self.norm(x))
        return logits

    def step(
        self, token: Tensor, position: Tensor, pasts: list[KeyValue], valid: Tensor
    ) -> tuple[Tensor, list[KeyValue]]:
        """One position of each text: logits [B, V], and the new keys and values of each block."""
        x = (self.characters(token) + self.positions(position))[:, None]  # [B, 1, C]
        updates = []
        for block, past in zip(self.blocks, pasts, strict=True):
            assert isinstance(block, TransformerBlock)
            x, new = block.step(x, past, valid)
            updates.append(new)
        return self.output(self.norm(x[:, 0])), updates


class CharacterTransformerStep(OneStep):
    """One character in, the logits of the next one out, on caches of keys and values.

    Shape:
        token [B], position [B] (0 … context-1) and cache_length [B] int64; for each block keys
        and values, [B, N, P, D] float32 each, of which the first cache_length rows are read.
        Returns logits [B, V] and, for each cache, the row [B, N, 1, D] of the new position.
    """

    def __init__(self, model: CharacterTransformer) -> None:
        caches = [f"{block}_{kind}" for block in range(len(model.blocks)) for kind in _KINDS]
        super().__init__(
            ("token", "position", "cache_length", *(f"{CACHE}{name}" for name in caches)),
            ("logits", *(f"update_{name}" for name in caches)),
        )
        self.model = model

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, ...]:
        """The first character at the start of a text, with room for two more in the caches."""
        heads, channels = self.model.cache_shape
        zeros = [torch.zeros(batch, dtype=torch.int64) for _ in range(3)]
        empty = torch.zeros(batch, heads, 2, channels)
        return (*zeros, *(empty.clone() for _ in range(len(_KINDS) * len(self.model.blocks))))

    def forward(
        self, token: Tensor, position: Tensor, cache_length: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """Logits, and what to write into each cache."""
        rows = torch.arange(caches[0].shape[2], device=token.device)
        valid = (rows < cache_length[:, None])[:, None, None]  # [B, 1, 1, P]
        pasts = list(zip(caches[::2], caches[1::2], strict=True))
        logits, updates = self.model.step(token, position, pasts, valid)
        return logits, *(part for new in updates for part in new)


_KINDS = ("key", "value")
