"""What the lecture's section 2.3 says of gradients and of descending them, on linear regression.

L(β) = 1/(2N) Σ (y_n - f(x_n; β))², in float64.
"""

from itertools import product

import pytest
import torch
from torch import Tensor

from atril_models.feedforward import FeedforwardNetwork

EXAMPLES = 12


def _examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 4, dtype=torch.float64, generator=generator)
    noise = torch.randn(EXAMPLES, 1, dtype=torch.float64, generator=generator)
    return inputs, inputs[:, :1] - 2 * inputs[:, 1:2] + 3 + noise


def _network() -> FeedforwardNetwork:
    torch.manual_seed(0)
    return FeedforwardNetwork((4,), 1).double()


def _gradient(network: FeedforwardNetwork, rows: Tensor) -> Tensor:
    """Of L over these examples (2.3.6), in one vector: four weights and the bias."""
    inputs, targets = _examples()
    loss = (targets[rows] - network(inputs[rows])).square().sum() / (2 * len(rows))
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def _parameters(network: FeedforwardNetwork) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def _design() -> Tensor:
    """The inputs with a column of ones for the bias: f(x; β) = design · β."""
    inputs, _targets = _examples()
    return torch.cat([inputs, torch.ones(EXAMPLES, 1, dtype=torch.float64)], dim=1)


def _least_squares() -> Tensor:
    _inputs, targets = _examples()
    return torch.linalg.lstsq(_design(), targets).solution.flatten()


def test_gradient_has_a_minus_sign() -> None:
    """Erratum 2.3.2: ∇L = -1/N Σ (y - f) ∇f; the sign as printed would climb."""
    network = _network()
    inputs, targets = _examples()
    residuals = targets - network(inputs).detach()
    by_hand = -(residuals * _design()).mean(dim=0)
    everything = torch.arange(EXAMPLES)
    torch.testing.assert_close(_gradient(network, everything), by_hand, rtol=1e-12, atol=1e-14)


def test_gradients_of_single_examples_average_to_the_whole() -> None:
    """2.3.4 and 7.1.5: a random example's gradient has the full gradient for its mean."""
    network = _network()
    single = torch.stack([_gradient(network, torch.tensor([n])) for n in range(EXAMPLES)])
    full = _gradient(network, torch.arange(EXAMPLES))
    torch.testing.assert_close(single.mean(dim=0), full, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_variance_falls_as_one_over_the_batch_size(batch_size: int) -> None:
    """Over every batch that can be drawn with replacement: same mean, variance divided by B."""
    network = _network()
    single = torch.stack([_gradient(network, torch.tensor([n])) for n in range(EXAMPLES)])
    full = single.mean(dim=0)
    draws = list(product(range(EXAMPLES), repeat=batch_size))
    batches = single[torch.tensor(draws)].mean(dim=1)  # [N^B, 5]
    torch.testing.assert_close(batches.mean(dim=0), full, rtol=1e-12, atol=1e-14)
    variance_of_one = (single - full).square().sum(dim=1).mean()
    variance = (batches - full).square().sum(dim=1).mean()
    torch.testing.assert_close(variance * batch_size, variance_of_one, rtol=1e-12, atol=0)
    drawn = torch.tensor(draws[17])
    torch.testing.assert_close(_gradient(network, drawn), batches[17], rtol=1e-12, atol=1e-14)


def _descend(network: FeedforwardNetwork, step_size: float, steps: int) -> None:
    """2.3.3: β(k+1) = β(k) - γ ∇L(β(k)) with every example."""
    everything = torch.arange(EXAMPLES)
    for _ in range(steps):
        gradient = _gradient(network, everything)
        at = 0
        with torch.no_grad():
            for parameter in network.parameters():
                size = parameter.numel()
                parameter -= step_size * gradient[at : at + size].view_as(parameter)
                at += size


def test_each_component_of_the_error_shrinks_by_its_own_factor() -> None:
    """Along the i-th eigenvector of the Hessian the error after k steps is (1 - γ λ_i)^k of it."""
    network = _network()
    curvatures, vectors = torch.linalg.eigh(_design().T @ _design() / EXAMPLES)
    before = vectors.T @ (_parameters(network) - _least_squares())
    step_size, steps = 0.3 / curvatures.max().item(), 25
    _descend(network, step_size, steps)
    after = vectors.T @ (_parameters(network) - _least_squares())
    expected = (1 - step_size * curvatures) ** steps * before
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("share_of_limit", "closer"), [(0.95, True), (1.05, False)])
def test_descent_converges_below_two_over_the_largest_curvature(
    share_of_limit: float, closer: bool
) -> None:
    """Step sizes below 2/L reach the least squares solution, those above leave it."""
    network = _network()
    largest = torch.linalg.eigvalsh(_design().T @ _design() / EXAMPLES).max().item()
    before = (_parameters(network) - _least_squares()).norm()
    _descend(network, share_of_limit * 2 / largest, steps=200)
    after = (_parameters(network) - _least_squares()).norm()
    assert bool(after < 1e-3 * before) == closer
    assert bool(after > before) != closer


def _path(batch_size: int, steps: int) -> Tensor:
    """The cost over all examples after each step with a random batch (2.3.5)."""
    network = _network()
    inputs, targets = _examples()
    generator = torch.Generator().manual_seed(5)
    costs = []
    for _ in range(steps):
        rows = torch.randperm(EXAMPLES, generator=generator)[:batch_size]
        loss = (targets[rows] - network(inputs[rows])).square().sum() / (2 * batch_size)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
            costs.append((targets - network(inputs)).square().mean() / 2)
    return torch.stack(costs)


def test_smaller_batches_make_a_noisier_path() -> None:
    """Figures 9 and 10: from step to step the cost varies most with B = 1, least with all."""
    single, mini, full = (_path(batch_size, steps=200) for batch_size in (1, 4, EXAMPLES))
    assert bool((full.diff() < 0).all())
    noise = [path[100:].diff().std().item() for path in (single, mini, full)]
    assert noise[0] > 2 * noise[1]
    assert noise[1] > 5 * noise[2]
