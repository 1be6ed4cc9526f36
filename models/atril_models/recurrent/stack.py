"""Recurrent layers on top of each other.

Dimensions: B batch, T time steps, P inputs, H hidden units of the last layer.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.operators import State


class RecurrentStack(nn.Module):
    """Each layer reads what the one below gives out; dropout between them, and after the last.

    Args:
        layers: from the input upwards.
        dropout: share of the units dropped, each unit anew at each time step; never those of the
            recurrence itself (Zaremba, Sutskever & Vinyals 2014, arXiv:1409.2329).

    Shape:
        x [B, T, P] and the states of all layers, one after the other; returns h [B, T, H] of the
        last layer and the states after the last step.

    Raises:
        ValueError: no layers, a layer that does not fit the one below, or dropout outside
            0 ≤ dropout < 1.
    """

    def __init__(self, layers: Sequence[RecurrentLayer], dropout: float = 0.0) -> None:
        super().__init__()
        if not layers:
            raise ValueError("a recurrent stack needs at least 1 layer, got none")
        for below, above in pairwise(layers):
            if below.hidden != above.inputs:
                raise ValueError(
                    f"a layer of {above.inputs} inputs cannot read one of {below.hidden} units"
                )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must satisfy 0 <= dropout < 1, got {dropout}")
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)
        self.inputs = layers[0].inputs
        self.hidden = layers[-1].hidden
        self.state_shapes = {
            f"{index}_{name}": shape
            for index, layer in enumerate(layers)
            for name, shape in layer.state_shapes.items()
        }

    def initial_state(self, x: Tensor) -> State:
        """Zeros for all layers, for the batch of x and with its device and x's type."""
        return tuple(x.new_zeros(x.shape[0], *shape) for shape in self.state_shapes.values())

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """All time steps, layer by layer."""
        following: State = ()
        for layer, own in self._with_states(state):
            x, own = layer(x, own)
            x = self.dropout(x)
            following += own
        return x, following

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step through all layers: from [B, P] to [B, H]."""
        following: State = ()
        for layer, own in self._with_states(state):
            x_t, own = layer.step(x_t, own)
            x_t = self.dropout(x_t)
            following += own
        return x_t, following

    def _with_states(self, state: State) -> list[tuple[RecurrentLayer, State]]:
        pairs = []
        start = 0
        for layer in self.layers:
            assert isinstance(layer, RecurrentLayer)
            end = start + len(layer.state_shapes)
            pairs.append((layer, state[start:end]))
            start = end
        return pairs
