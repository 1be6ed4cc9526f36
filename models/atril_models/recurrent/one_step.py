"""One time step of a network as a network of its own, with all that it remembers laid open.

Whoever generates or streams calls it once a step. It remembers nothing itself, so that steps of
many sequences, each at its own position, can share a batch.
"""

from collections.abc import Mapping

import torch

from atril_models.architecture import Network
from atril_models.recurrent.operators import State

STATE = "state_"
"""Begins the name of an input that is replaced, every step, by the output of the same name with
`next_` before it. A sequence starts with zeros."""

CACHE = "cache_"
"""Begins the name of an input that holds one row for each past position, [B, heads, P, d], in a
buffer of any size P that is the caller's: row n is what the output `update_…` of the same name,
[B, heads, 1, d], gave at position n. The input `cache_length` [B] says how many rows are valid."""


class OneStep(Network):
    """The step of a network, under names that say how outputs become inputs.

    Args:
        input_names: of what `forward` takes, in order.
        output_names: of what it returns, in order.
    """

    def __init__(self, input_names: tuple[str, ...], output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.input_names = input_names
        self.output_names = output_names


def state_names(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs and of the outputs for states of these names."""
    before = tuple(f"{STATE}{name}" for name in shapes)
    return before, tuple(f"next_{name}" for name in before)


def empty_states(shapes: Mapping[str, tuple[int, ...]], batch: int) -> State:
    """Zeros, as a sequence starts with them."""
    return tuple(torch.zeros(batch, *shape) for shape in shapes.values())
