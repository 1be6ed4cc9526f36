"""What a network that writes a target one token at a time looks like from outside.

Every such network is exported as two stateless graphs, an encoder and one step of its decoder, and
one search (`decoding.py`, or a server's engine) drives them all: it only has to know the names.

    encoder   source, source_length -> memory_*, state_*
    decoder   token, memory_*, [source_length,] state_*, [position, cache_length, cache_*]
              -> logits, next_state_*, update_* [, attention]

`memory_*` stays as it is for a whole request. `state_*` is replaced by `next_state_*` after each
step. `cache_*` is room for past positions that the caller owns: `cache_length` says how many of
them are valid in each row, and `update_*` holds the one new position, of the same shape but for
its length of 1, which the caller writes at index `cache_length` of that row. So the graph copies
no cache, and rows of one batch may be at different positions: requests can join and leave between
steps. What lies in a cache beyond `cache_length`, and in a memory beyond `source_length`, has no
influence, but must be finite. `position` is the token's place in the target, counted from 0 for
the begin token.

There is one tensor for each layer and kind, not one stack of all layers: taking a layer out of a
stack would be a copy in every step.

Dimensions: B batch, S source positions, T target positions, P room for past positions,
V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atril_models.architecture import Network

BATCH, SOURCE, CACHE = "batch", "source", "cache"
"""The free dimensions by name: B, S and P."""

EXAMPLE_SOURCE_LENGTH, EXAMPLE_TARGET_LENGTH = 7, 5


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the contract; a dimension is a number or the name of a free one."""

    name: str
    dims: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32

    def zeros(self, lengths: Mapping[str, int]) -> Tensor:
        """A tensor of this kind, its free dimensions as long as `lengths` says by name."""
        shape = [dim if isinstance(dim, int) else lengths[dim] for dim in self.dims]
        return torch.zeros(shape, dtype=self.dtype)


def _indices(name: str, *dims: str) -> TensorSpec:
    return TensorSpec(name, dims, torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContract:
    """Inputs and outputs of a network's encoder and of one step of its decoder.

    Args:
        vocabulary: V, the width of the logits.
        memory: constant for a request, each named `memory_*`.
        states: each named `state_*`; the encoder gives the first, each step the next.
        caches: each named `cache_*`, with dimensions (batch, ..., cache, size).
        attends: whether each step weighs the source positions, so that it can say how.
    """

    vocabulary: int
    memory: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...] = ()
    caches: tuple[TensorSpec, ...] = ()
    attends: bool = False

    @property
    def encoder_inputs(self) -> tuple[TensorSpec, ...]:
        """`source` and `source_length`."""
        return (_indices("source", BATCH, SOURCE), _indices("source_length", BATCH))

    @property
    def encoder_outputs(self) -> tuple[TensorSpec, ...]:
        """Memory and first states."""
        return (*self.memory, *self.states)

    @property
    def decoder_inputs(self) -> tuple[TensorSpec, ...]:
        """What one step is given, in the exported order."""
        lengths = (_indices("source_length", BATCH),) if self.attends else ()
        places = (_indices("position", BATCH), _indices("cache_length", BATCH))
        return (
            _indices("token", BATCH),
            *lengths,
            *self.memory,
            *self.states,
            *(places if self.caches else ()),
            *self.caches,
        )

    def decoder_outputs(self, *, explain: bool = False) -> tuple[TensorSpec, ...]:
        """What one step answers, in the exported order; `attention` where it is to explain.

        Raises:
            ValueError: it is to explain, but weighs no source positions.
        """
        if explain and not self.attends:
            raise ValueError("this decoder has no attention to explain itself with")
        return (
            TensorSpec("logits", (BATCH, self.vocabulary)),
            *(TensorSpec(next_state_name(state.name), state.dims) for state in self.states),
            *(_update(cache) for cache in self.caches),
            *((TensorSpec("attention", (BATCH, SOURCE)),) if explain else ()),
        )


def next_state_name(state_name: str) -> str:
    """`state_x` becomes `next_state_x`."""
    return f"next_{state_name}"


def update_name(cache_name: str) -> str:
    """`cache_x` becomes `update_x`."""
    return f"update_{cache_name.removeprefix('cache_')}"


def _update(cache: TensorSpec) -> TensorSpec:
    return TensorSpec(update_name(cache.name), tuple(1 if d == CACHE else d for d in cache.dims))


class SequenceToSequence(Network):
    """A network that reads a source and predicts a target token by token.

    Source and target share one vocabulary, 0 … V - 1. A target starts with the token that marks
    its beginning, and the logits at position t are those of the token that follows.
    """

    contract: StepContract

    @abstractmethod
    def forward(self, source: Tensor, source_length: Tensor, target: Tensor) -> Tensor:
        """Logits at every target position, each given the true tokens up to it.

        Shape:
            source int64 [B, S], padded on the right; source_length int64 [B], from 1 to S;
            target int64 [B, T]; returns float32 [B, T, V].
        """

    @abstractmethod
    def encode(self, source: Tensor, source_length: Tensor) -> dict[str, Tensor]:
        """The encoder's outputs by name."""

    @abstractmethod
    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One step of the decoder: its outputs by name, and `attention` where it attends."""

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Full sources of seven tokens and targets of five."""
        return (
            torch.zeros(batch, EXAMPLE_SOURCE_LENGTH, dtype=torch.int64),
            torch.full((batch,), EXAMPLE_SOURCE_LENGTH),
            torch.zeros(batch, EXAMPLE_TARGET_LENGTH, dtype=torch.int64),
        )


class Encoder(nn.Module):
    """A network's encoder with its tensors in the contract's order, as it is exported."""

    def __init__(self, network: SequenceToSequence) -> None:
        super().__init__()
        self.network = network
        self.inputs = network.contract.encoder_inputs
        self.outputs = network.contract.encoder_outputs
        self.train(network.training)

    def forward(self, source: Tensor, source_length: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the contract's order."""
        named = self.network.encode(source, source_length)
        return tuple(named[spec.name] for spec in self.outputs)


class DecoderStep(nn.Module):
    """One step of a network's decoder with its tensors in the contract's order, as it is exported.

    Args:
        network: of which it is a step.
        explain: whether it also answers how it weighs the source positions.

    Raises:
        ValueError: it is to explain, but the network does not attend.
    """

    def __init__(self, network: SequenceToSequence, *, explain: bool = False) -> None:
        super().__init__()
        self.network = network
        self.inputs = network.contract.decoder_inputs
        self.outputs = network.contract.decoder_outputs(explain=explain)
        self.train(network.training)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs in the contract's order, of inputs in the contract's order."""
        names = (spec.name for spec in self.inputs)
        named = self.network.step(dict(zip(names, inputs, strict=True)))
        return tuple(named[spec.name] for spec in self.outputs)
