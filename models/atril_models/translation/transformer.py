"""The Transformer.

Source: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762; lecture 6.2, which
leaves out positions, residual connections, normalisation and the decoder's third sub-layer: they
are the paper's here.

Dimensions: B batch, S source positions, T target positions, P cached positions, H heads, D model,
F feed-forward, d one head, V vocabulary.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.translation.attention import MultiHeadAttention, causal_mask, length_mask
from atril_models.translation.contract import (
    BATCH,
    CACHE,
    SOURCE,
    SequenceToSequence,
    StepContract,
    TensorSpec,
)

_LONGEST_WAVE = 10_000  # over 2 pi, in positions


def sinusoidal_positions(position: Tensor, size: int) -> Tensor:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)).

    Computed rather than looked up, so that no length is too long.

    Shape: position int64 [...]; returns float32 [..., size].
    """
    exponent = torch.arange(0, size, 2, device=position.device, dtype=torch.float32) / size
    angle = position[..., None] * torch.exp(exponent * -math.log(_LONGEST_WAVE))
    return torch.stack((torch.sin(angle), torch.cos(angle)), dim=-1).flatten(-2)


class AddAndNorm(nn.Module):
    """What surrounds a sub-layer: dropout, the residual connection and the normalisation.

    After the sub-layer, as published, x <- LayerNorm(x + Dropout(sublayer(x))); or before it,
    x <- x + Dropout(sublayer(LayerNorm(x))), which trains without a warm-up (Xiong et al. 2020,
    arXiv:2002.04745).
    """

    def __init__(self, model_size: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(model_size)
        self.dropout = nn.Dropout(dropout)

    def enter(self, inputs: Tensor) -> Tensor:
        """What the sub-layer sees."""
        seen: Tensor = self.norm(inputs) if self.pre_norm else inputs
        return seen

    def leave(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """What comes out, of what came in and what the sub-layer made of it."""
        total = inputs + self.dropout(outputs)
        left: Tensor = total if self.pre_norm else self.norm(total)
        return left


class FeedForward(nn.Sequential):
    """max(0, x W_1 + b_1) W_2 + b_2, the same at each position."""

    def __init__(self, model_size: int, feedforward_size: int) -> None:
        super().__init__(
            nn.Linear(model_size, feedforward_size),
            nn.ReLU(),
            nn.Linear(feedforward_size, model_size),
        )


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward network."""

    def __init__(
        self, attention: MultiHeadAttention, feedforward: FeedForward, around: list[AddAndNorm]
    ) -> None:
        super().__init__()
        self.self_attention = attention
        self.feedforward = feedforward
        self.around_attention, self.around_feedforward = around

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Shape: inputs [B, S, D]; mask bool, broadcast to [B, H, S, S]; returns [B, S, D]."""
        seen = self.around_attention.enter(inputs)
        _, attended = self.self_attention(seen, *self.self_attention.memory(seen), mask)
        inputs = self.around_attention.leave(inputs, attended)
        return _apply(self.around_feedforward, self.feedforward, inputs)


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the encoder's output, then the feed-forward network."""

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        source_attention: MultiHeadAttention,
        feedforward: FeedForward,
        around: list[AddAndNorm],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.source_attention = source_attention
        self.feedforward = feedforward
        self.around_self, self.around_source, self.around_feedforward = around

    def forward(self, inputs: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """All positions at once, each seeing those before it.

        Shape:
            inputs [B, T, D]; memory two of [B, H, S, d]; mask bool [B, 1, 1, S]; returns
            [B, T, D].
        """
        causal = causal_mask(inputs.shape[1], inputs.device)
        seen = self.around_self.enter(inputs)
        _, attended = self.self_attention(seen, *self.self_attention.memory(seen), causal)
        inputs = self.around_self.leave(inputs, attended)
        seen = self.around_source.enter(inputs)
        _, attended = self.source_attention(seen, *memory, mask)
        inputs = self.around_source.leave(inputs, attended)
        return _apply(self.around_feedforward, self.feedforward, inputs)

    def step(
        self,
        inputs: Tensor,
        memory: tuple[Tensor, Tensor],
        mask: Tensor,
        cache: tuple[Tensor, Tensor],
        cache_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One new position a row.

        Shape:
            inputs [B, D]; memory two of [B, H, S, d]; mask bool [B, 1, S]; cache two of
            [B, H, P, d]; cache_mask bool [B, 1, P].

        Returns:
            Outputs [B, D], key and value [B, H, 1, d] of the new position, and the weights of the
            source positions [B, H, S].
        """
        attended, key, value = self.self_attention.step_with_cache(
            self.around_self.enter(inputs), *cache, cache_mask
        )
        inputs = self.around_self.leave(inputs, attended)
        weights, attended = self.source_attention.step(
            self.around_source.enter(inputs), *memory, mask
        )
        inputs = self.around_source.leave(inputs, attended)
        return _apply(self.around_feedforward, self.feedforward, inputs), key, value, weights


def _apply(around: AddAndNorm, sublayer: nn.Module, inputs: Tensor) -> Tensor:
    return around.leave(inputs, sublayer(around.enter(inputs)))


class Transformer(SequenceToSequence):
    """Encoder and decoder of attention and position-wise networks alone.

    One embedding, times sqrt(D), serves source, target and, transposed, the output; sinusoidal
    positions are added to it. The defaults give the base form: six layers each, 63,045,632
    parameters with a vocabulary of 37,000, or 63,082,496 with biases in the attention.

    Args:
        vocabulary: V, of source and target together.
        model_size: D.
        layers: of the encoder, and of the decoder.
        heads: H.
        feedforward_size: F.
        dropout: the share set to 0 in training, of each sub-layer's output and of the embedded
            input.
        pre_norm: normalise before each sub-layer, and after the last layer, rather than after
            each sub-layer as published.
        attention_bias: whether the projections of the attention have biases.

    Raises:
        ValueError: a size is less than 1, or D is odd or no multiple of H.
    """

    def __init__(  # noqa: PLR0913  each is a dimension of the paper's Table 3 or a choice of norm
        self,
        vocabulary: int = 37_000,
        *,
        model_size: int = 512,
        layers: int = 6,
        heads: int = 8,
        feedforward_size: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        attention_bias: bool = False,
    ) -> None:
        super().__init__()
        sizes = (vocabulary, model_size, layers, heads, feedforward_size)
        if min(sizes) < 1:
            raise ValueError(f"every size must be at least 1, got {sizes}")
        if model_size % 2:
            raise ValueError(f"the model size must be even, for sine and cosine, got {model_size}")

        def attention() -> MultiHeadAttention:
            return MultiHeadAttention(model_size, heads, bias=attention_bias)

        def feedforward() -> FeedForward:
            return FeedForward(model_size, feedforward_size)

        def around(sublayers: int) -> list[AddAndNorm]:
            return [AddAndNorm(model_size, dropout, pre_norm=pre_norm) for _ in range(sublayers)]

        def last_norm() -> nn.Module:
            return nn.LayerNorm(model_size) if pre_norm else nn.Identity()

        self.layers = layers
        self.embedding = nn.Embedding(vocabulary, model_size)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(attention(), feedforward(), around(2)) for _ in range(layers)
        )
        self.encoder_norm = last_norm()
        self.decoder = nn.ModuleList(
            DecoderLayer(attention(), attention(), feedforward(), around(3)) for _ in range(layers)
        )
        self.decoder_norm = last_norm()
        self.output = nn.Linear(model_size, vocabulary, bias=False)
        self.output.weight = self.embedding.weight
        self._reset()
        self.contract = _contract(vocabulary, layers, heads, model_size // heads)

    def _reset(self) -> None:
        """Glorot for every matrix; the embedding so that, times sqrt(D), it has unit variance."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)

    def forward(self, source: Tensor, source_length: Tensor, target: Tensor) -> Tensor:
        """Logits at every target position, each given the true tokens up to it.

        Shape: as in `SequenceToSequence.forward`.
        """
        mask = length_mask(source_length, source.shape[1])[:, None, None]  # [B, 1, 1, S]
        memories = self._pairs(self.encode(source, source_length), "memory")
        outputs = self._embed(target, torch.arange(target.shape[1], device=target.device))
        for layer, memory in zip(self._decoder_layers(), memories, strict=True):
            outputs = layer(outputs, memory, mask)
        return self._logits(outputs)

    def encode(self, source: Tensor, source_length: Tensor) -> dict[str, Tensor]:
        """Keys and values of the source for each layer of the decoder."""
        mask = length_mask(source_length, source.shape[1])[:, None, None]  # [B, 1, 1, S]
        outputs = self._embed(source, torch.arange(source.shape[1], device=source.device))
        for layer in self.encoder:
            outputs = layer(outputs, mask)
        outputs = self.encoder_norm(outputs)
        encoded: dict[str, Tensor] = {}
        for index, layer in enumerate(self._decoder_layers()):
            key, value = layer.source_attention.memory(outputs)
            encoded |= {f"memory_key_{index}": key, f"memory_value_{index}": value}
        return encoded

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits, the new position's keys and values, and the weights of the source positions.

        The weights are the mean over the heads of the last layer.
        """
        memories, caches = self._pairs(inputs, "memory"), self._pairs(inputs, "cache")
        mask = length_mask(inputs["source_length"], memories[0][0].shape[2])[:, None]
        cache_mask = length_mask(inputs["cache_length"], caches[0][0].shape[2])[:, None]
        outputs = self._embed(inputs["token"], inputs["position"])  # [B, D]
        named: dict[str, Tensor] = {}
        for index, layer in enumerate(self._decoder_layers()):
            outputs, key, value, weights = layer.step(
                outputs, memories[index], mask, caches[index], cache_mask
            )
            named |= {f"update_key_{index}": key, f"update_value_{index}": value}
        return {"logits": self._logits(outputs), **named, "attention": weights.mean(1)}

    def _embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        size = self.embedding.embedding_dim
        words = self.embedding(tokens) * math.sqrt(size)
        embedded: Tensor = self.dropout(words + sinusoidal_positions(position, size))
        return embedded

    def _logits(self, outputs: Tensor) -> Tensor:
        logits: Tensor = self.output(self.decoder_norm(outputs))
        return logits

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def _pairs(self, tensors: Mapping[str, Tensor], kind: str) -> list[tuple[Tensor, Tensor]]:
        """Key and value of each layer."""
        layers = range(self.layers)
        return [(tensors[f"{kind}_key_{one}"], tensors[f"{kind}_value_{one}"]) for one in layers]


def _contract(vocabulary: int, layers: int, heads: int, head_size: int) -> StepContract:
    def each(kind: str, free: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(f"{kind}_{part}_{layer}", (BATCH, heads, free, head_size))
            for layer in range(layers)
            for part in ("key", "value")
        )

    return StepContract(
        vocabulary=vocabulary,
        memory=each("memory", SOURCE),
        caches=each("cache", CACHE),
        attends=True,
    )


ARCHITECTURES = (
    Architecture(
        name="transformer",
        title="Transformer",
        family=Family.SEQUENCE_TO_SEQUENCE,
        lecture_section="6.2",
        source="Vaswani et al. 2017, arXiv:1706.03762",
        formula="Attention(Q, K, V) = softmax(Q K' / sqrt(d_k)) V, in several heads side by side. "
        "Encoder layers: self-attention, max(0, x W_1 + b_1) W_2 + b_2. Decoder layers: masked "
        "self-attention, attention to the source, the same network. LayerNorm(x + sublayer(x)) "
        "around each.",
        build=Transformer,
    ),
)
