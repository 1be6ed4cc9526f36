"""Gradients of the feed-forward networks: the lecture's equations 2.4 and central differences.

Dimensions, as in lecture 2.4: p inputs, h hidden units, q outputs, n examples.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atril_models.activations import ACTIVATIONS, MAXOUT
from atril_models.feedforward import FeedforwardNetwork, HiddenLayers

PENALTY = 0.03

# Each activation of logits z with its derivative, written out.
DERIVATIVES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda z: z, torch.ones_like),
    "sigmoid": (
        lambda z: 1 / (1 + torch.exp(-z)),
        lambda z: torch.exp(-z) / (1 + torch.exp(-z)) ** 2,
    ),
    "tanh": (torch.tanh, lambda z: 1 / torch.cosh(z) ** 2),
    "relu": (lambda z: z * (z > 0), lambda z: 1.0 * (z > 0)),
    "elu": (
        lambda z: torch.where(z > 0, z, torch.exp(z) - 1),
        lambda z: torch.where(z > 0, 1, torch.exp(z)),
    ),
    "gelu": (
        lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
        lambda z: (
            (1 + torch.erf(z / math.sqrt(2))) / 2
            + z * torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        ),
    ),
}


def _network(activation: str, seed: int = 0) -> FeedforwardNetwork:
    """Four inputs, five hidden units, three outputs; the biases differ from 0."""
    torch.manual_seed(seed)
    hidden = HiddenLayers(widths=(5,), activation=activation, maxout_pieces=3)
    network = FeedforwardNetwork((4,), 3, hidden).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
    return network


def _examples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    targets = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return inputs, targets


def _cost(network: FeedforwardNetwork, inputs: Tensor, targets: Tensor) -> Tensor:
    """2.4.2: J = 1/(2n) ‖o - y‖² + λ/2 Σ ‖W(l)‖², biases left out of the penalty."""
    outputs: Tensor = network(inputs)
    penalty = sum(
        parameter.square().sum()
        for name, parameter in network.named_parameters()
        if name.endswith("weight")
    )
    return (outputs - targets).square().sum() / (2 * len(inputs)) + PENALTY / 2 * penalty


@pytest.mark.parametrize("activation", list(DERIVATIVES))
def test_gradients_are_those_of_the_lectures_equations(activation: str) -> None:
    """2.4.3 to 2.4.13 by hand for one example, the biases added, against autograd."""
    phi, derivative = DERIVATIVES[activation]
    network = _network(activation)
    first, second = network.hidden[0].linear, network.output
    inputs, targets = _examples(1)
    _cost(network, inputs, targets).backward()

    x, y = inputs[0], targets[0]
    w1, w2 = first.weight.detach(), second.weight.detach()  # [h, p], [q, h]
    z = w1 @ x + first.bias.detach()  # 2.4.3
    h = phi(z)  # 2.4.4
    o = w2 @ h + second.bias.detach()  # 2.4.5
    d_o = o - y  # 2.4.9 with n = 1
    d_w2 = torch.outer(d_o, h) + PENALTY * w2  # 2.4.10
    d_h = w2.T @ d_o  # 2.4.11
    d_z = d_h * derivative(z)  # 2.4.12
    d_w1 = torch.outer(d_z, x) + PENALTY * w1  # 2.4.13

    for parameter, expected in (
        (first.weight, d_w1),
        (first.bias, d_z),
        (second.weight, d_w2),
        (second.bias, d_o),
    ):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-14)


def test_penalty_leaves_the_biases_alone() -> None:
    """2.4.8: the gradient of the penalty is λ W(l), and exactly 0 for every bias."""
    network = _network("tanh")
    inputs, targets = _examples(6)
    _cost(network, inputs, targets).backward()
    with_penalty = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    ((network(inputs) - targets).square().sum() / (2 * len(inputs))).backward()
    for gradient, (name, parameter) in zip(with_penalty, network.named_parameters(), strict=True):
        difference = gradient - parameter.grad
        if name.endswith("bias"):
            assert not difference.any()
        else:
            torch.testing.assert_close(difference, PENALTY * parameter, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, MAXOUT])
def test_gradients_are_central_differences(activation: str) -> None:
    """(J(w + e) - J(w - e)) / 2e for every parameter, relative error of the vector below 1e-6."""
    network = _network(activation)
    inputs, targets = _examples(6)
    _cost(network, inputs, targets).backward()
    step = 1e-5
    exact, numeric = [], []
    with torch.no_grad():
        for parameter in network.parameters():
            values = parameter.view(-1)
            exact.extend(parameter.grad.view(-1).tolist())
            for index in range(len(values)):
                kept = values[index].item()
                costs = []
                for value in (kept + step, kept - step):
                    values[index] = value
                    costs.append(_cost(network, inputs, targets).item())
                values[index] = kept
                numeric.append((costs[0] - costs[1]) / (2 * step))
    gap, size = torch.tensor(exact) - torch.tensor(numeric), torch.tensor(exact).norm()
    assert gap.norm() / size < 1e-6
