"""What every recurrent layer is: an equation for one time step, and the same over a sequence.

Dimensions: B batch, T time steps, P inputs, H hidden units.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atril_models.accounting import Work, count_work, weighted_sums
from atril_models.recurrent.operators import State, unroll


class RecurrentLayer(nn.Module, ABC):
    """A recurrence h(t) = f(h(t-1), x(t), W) (lecture 5.1.1).

    The equation is in `project`, the part that depends on the input alone, and `recur`, the rest;
    calling the layer applies both to a whole sequence, and a layer may do that by a kernel that
    computes the same.

    Args:
        inputs: P.
        hidden: H.
        state_shapes: the shape of each tensor that the layer remembers, without the batch.

    Shape:
        x [B, T, P] float32 and, where there is one, the state before it, each tensor
        [B, *state_shapes[name]]; all zeros where it is left out. Returns h [B, T, H] and the
        state after the last step.

    Raises:
        ValueError: inputs < 1 or hidden < 1.
    """

    def __init__(
        self, inputs: int, hidden: int, state_shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__()
        if inputs < 1 or hidden < 1:
            raise ValueError(f"inputs and hidden must be at least 1, got {inputs} and {hidden}")
        self.inputs = inputs
        self.hidden = hidden
        self.state_shapes = dict(state_shapes)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The part of the equation that depends on the input alone, for any leading dimensions."""

    @abstractmethod
    def recur(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step on a projected input; returns h(t) [B, H] and the next state."""

    @abstractmethod
    def summary(self, state: State) -> Tensor:
        """The vector [B, H] that stands for all that was read up to this state."""

    def initial_state(self, x: Tensor) -> State:
        """Zeros, for the batch of x and with its type and device."""
        return tuple(x.new_zeros(x.shape[0], *shape) for shape in self.state_shapes.values())

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: from x(t) [B, P] and a state to h(t) [B, H] and the next state."""
        return self.recur(self.project(x_t), state)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """All time steps in turn."""
        return unroll(self.recur, self.project(x), state or self.initial_state(x))

    def _weight(self, rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(self._uniform(rows, columns))

    def _bias(self, rows: int) -> nn.Parameter:
        return nn.Parameter(self._uniform(rows))

    def _uniform(self, *shape: int) -> Tensor:
        """In ±1/√H, as PyTorch starts its recurrent layers."""
        bound = self.hidden**-0.5
        return torch.empty(*shape).uniform_(-bound, bound)


@count_work.register
def _(layer: RecurrentLayer, output_shape: tuple[int, ...]) -> Work:
    """Every weight and every bias once a time step."""
    weights = sum(p.numel() for p in layer.parameters() if p.dim() > 1)
    biases = sum(p.numel() for p in layer.parameters() if p.dim() == 1)
    return weighted_sums(weights, biases, output_shape[0])
