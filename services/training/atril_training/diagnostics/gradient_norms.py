"""How gradients vanish and explode through time (lecture 5.3), as numbers and as a picture.

Dimensions: T time steps, P inputs, H hidden units, S numbers that a layer remembers.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.long_short_term_memory import LSTM
from atril_models.recurrent.operators import State
from atril_models.recurrent.rnn import DelayedRNN, LeakyRNN, SimpleRNN, SkipRNN


@dataclass(frozen=True, slots=True, eq=False)
class GradientNorms:
    """‖dh(t)/d state(0)‖ for t = 1 … T, the largest singular value of each Jacobian.

    `growth` is the mean factor from one step to the next over the second half of the time: below
    1 the gradient vanishes, above 1 it explodes. For a linear recurrence it is the spectral radius
    of its weights.
    """

    norms: NDArray[np.float64]

    @property
    def growth(self) -> float:
        """(‖J(T)‖ / ‖J(T/2)‖) to the power of one through the steps between."""
        half = len(self.norms) // 2
        ratio = self.norms[-1] / self.norms[half - 1]
        return float(ratio ** (1 / (len(self.norms) - half)))


def gradient_norms(layer: RecurrentLayer, x: Tensor) -> GradientNorms:
    """Multiply the Jacobians of the steps, which is what backpropagation through time does.

    Args:
        layer: any recurrent layer; it is left as it was.
        x: one sequence of inputs, at least two steps.

    Shape: x [T, P], of the layer's type; float64 keeps what has vanished apart from zero.

    Raises:
        ValueError: fewer than two steps.
    """
    if len(x) < 2:
        raise ValueError(f"gradient norms need at least 2 time steps, got {len(x)}")
    numbers = sum(prod(shape) for shape in layer.state_shapes.values())
    state = layer.initial_state(x.new_zeros(1, 0))
    so_far = torch.eye(numbers, dtype=x.dtype)  # d state(t) / d state(0)
    norms = []
    for x_t in x:
        of_h, of_state, state = _step_with_jacobians(layer, x_t, state)
        norms.append(torch.linalg.matrix_norm(of_h @ so_far, ord=2).item())
        so_far = of_state @ so_far
    return GradientNorms(np.array(norms))


def _step_with_jacobians(
    layer: RecurrentLayer, x_t: Tensor, state: State
) -> tuple[Tensor, Tensor, State]:
    """dh(t)/d state(t-1) [H, S], d state(t)/d state(t-1) [S, S], and state(t).

    One copy of the step for each number that comes out of it, so that a single backward pass gives
    a row of the Jacobians in each.
    """
    rows = layer.hidden + sum(part.numel() for part in state)
    copies = tuple(part.expand(rows, *part.shape[1:]).clone().requires_grad_() for part in state)
    h, following = layer.step(x_t.expand(rows, -1), copies)
    outputs = torch.cat([h, *(part.flatten(1) for part in following)], dim=1)
    gradients = torch.autograd.grad(outputs.diagonal().sum(), copies)
    jacobian = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
    of_h, of_state = jacobian[: layer.hidden], jacobian[layer.hidden :]
    return of_h, of_state, tuple(part[:1].detach() for part in following)


def set_spectral_radius(weight: nn.Parameter, radius: float) -> None:
    """Scale a square matrix so that its largest eigenvalue has this magnitude."""
    with torch.no_grad():
        weight.mul_(radius / torch.linalg.eigvals(weight).abs().max())


def compare_recurrences(
    steps: int = 100, hidden: int = 16, delay: int = 5, *, seed: int = 0
) -> dict[str, GradientNorms]:
    """The remedies of lecture 5.4 to 5.7 beside the recurrences that they are remedies for.

    As in the lecture there are no inputs: from a state of zero, units without biases stay where
    tanh is linear. The simple recurrence has once a spectral radius of 0.9, and its gradients
    vanish, and once one of 1.1, and they explode. A skip of radius 0.7 is added to a recurrence of
    0.5, which by itself would be the first to vanish; the delayed and the leaky recurrence have
    0.9. The LSTM starts as always, but for its forget gates, which let 99 in 100 through.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: dict[str, RecurrentLayer] = {
            "simple, radius 0.9": _scaled(SimpleRNN(1, hidden), {"weight_hh": 0.9}),
            "simple, radius 1.1": _scaled(SimpleRNN(1, hidden), {"weight_hh": 1.1}),
            f"radius 0.5 and a skip of 0.7 over {delay}": _scaled(
                SkipRNN(1, hidden, delay), {"weight_hh": 0.5, "weight_dh": 0.7}
            ),
            f"radius 0.9 over {delay} only": _scaled(
                DelayedRNN(1, hidden, delay), {"weight_dh": 0.9}
            ),
            "radius 0.9, leaky with α = 0.95": _scaled(
                LeakyRNN(1, hidden, 0.95), {"weight_hh": 0.9}
            ),
            "LSTM, forget gates at 0.99": _opened(LSTM(1, hidden)),
        }
    x = torch.zeros(steps, 1, dtype=torch.float64)
    return {name: gradient_norms(layer.double(), x) for name, layer in layers.items()}


def draw_gradient_norms(norms: Mapping[str, GradientNorms]) -> bytes:
    """A picture of the norms over time on a logarithmic axis, PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, one in norms.items():
        steps = np.arange(1, len(one.norms) + 1)
        axes.semilogy(steps, one.norms, label=f"{name}: {one.growth:.3f} a step")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(
        title="Gradient through time (lecture 5.3)",
        xlabel="time steps t",
        ylabel="‖dh(t) / d state(0)‖",
    )
    axes.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _scaled(layer: RecurrentLayer, radii: Mapping[str, float]) -> RecurrentLayer:
    """With recurrent matrices of these spectral radii, and without biases."""
    for name, parameter in layer.named_parameters():
        if name in radii:
            set_spectral_radius(parameter, radii[name])
        elif name == "bias":
            nn.init.zeros_(parameter)
    return layer


def _opened(layer: LSTM) -> LSTM:
    """With forget gates that let 99 in 100 through."""
    with torch.no_grad():
        layer.bias[layer.hidden : 2 * layer.hidden] = 4.6
    return layer
