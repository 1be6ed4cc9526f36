"""Penalties of regularised autoencoders, each against a sum or a derivative done another way."""

import math

import pytest
import torch
from torch import Tensor, nn

from atril_models import create_model
from atril_models.autoencoders.contractive import ContractiveAutoencoder
from atril_models.autoencoders.penalties import (
    SPARSITY_DISTANCES,
    bernoulli_divergence,
    jacobian_norm,
    sparsity_penalty,
)


def _contractive() -> tuple[ContractiveAutoencoder, Tensor]:
    torch.manual_seed(0)
    network = create_model("contractive-autoencoder", image_shape=(1, 4, 5), code_size=7)
    assert isinstance(network, ContractiveAutoencoder)
    return network.double(), torch.rand(6, 1, 4, 5, dtype=torch.float64)


def test_contractive_penalty_in_closed_form_is_the_norm_of_the_jacobian() -> None:
    """sum_j (h_j(1-h_j))² sum_i W_ji² equals autograd's Jacobian to 1e-10, picture by picture."""
    network, image = _contractive()
    closed = network.squared_jacobian_norm(image)
    for picture, got in zip(image, closed, strict=True):
        jacobian = torch.autograd.functional.jacobian(network.encode, picture[None])
        assert float(got.detach()) == pytest.approx(
            float(jacobian.detach().square().sum()), abs=1e-10
        )
    torch.testing.assert_close(jacobian_norm(network.encode, image), closed, atol=1e-10, rtol=0)


def test_both_forms_of_the_penalty_have_the_same_gradient() -> None:
    """The generic form can be learnt by: its gradient in the weights is the closed form's."""
    network, image = _contractive()
    parameters = [network.encoder[0].linear.weight, network.encoder[0].linear.bias]
    closed = torch.autograd.grad(network.squared_jacobian_norm(image).mean(), parameters)
    generic = torch.autograd.grad(jacobian_norm(network.encode, image).mean(), parameters)
    for one, other in zip(closed, generic, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_jacobian_norm_of_any_encoder_is_that_of_finite_differences() -> None:
    """A deep encoder's Jacobian norm equals the one of central differences."""
    torch.manual_seed(0)
    network = create_model("deep-autoencoder", image_shape=(1, 2, 3), widths=(5, 4)).double()
    image = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    step = 1e-5
    columns = []
    for pixel in range(6):
        nudge = torch.zeros(6, dtype=torch.float64)
        nudge[pixel] = step
        shifted = nudge.view(1, 1, 2, 3)
        columns.append((network.encode(image + shifted) - network.encode(image - shifted)) / 2)
    expected = (torch.stack(columns) / step).square().sum(dim=(0, 2))
    torch.testing.assert_close(jacobian_norm(network.encode, image), expected, rtol=1e-8, atol=0)


def test_jacobian_norm_of_a_linear_encoder_is_that_of_its_weight() -> None:
    """For z = W x + b the norm is that of W at every picture; codes may have any shape."""
    layer = nn.Conv2d(1, 2, 2).double()
    image = torch.rand(3, 1, 4, 5, dtype=torch.float64)
    expected = (3 * 4) * layer.weight.square().sum()  # one copy of the kernel at each position
    torch.testing.assert_close(jacobian_norm(layer, image), expected.expand(3))


def test_kl_penalty_is_zero_exactly_at_the_target() -> None:
    """KL(rho || rho_hat) is 0 at rho_hat = rho and positive elsewhere."""
    rho_hat = torch.tensor([0.01, 0.05, 0.4, 0.99], dtype=torch.float64)
    got = bernoulli_divergence(rho_hat, 0.05)
    assert float(got[1]) == 0
    assert (got[[0, 2, 3]] > 0).all()


@pytest.mark.parametrize("rho_hat", [0.001, 0.05, 0.3, 0.9])
def test_slope_of_the_kl_penalty(rho_hat: float) -> None:
    """Its derivative is -rho/rho_hat + (1-rho)/(1-rho_hat), as in Ng's notes."""
    rho = 0.05
    actual = torch.tensor([rho_hat], dtype=torch.float64, requires_grad=True)
    bernoulli_divergence(actual, rho).sum().backward()
    assert actual.grad is not None
    assert float(actual.grad) == pytest.approx(-rho / rho_hat + (1 - rho) / (1 - rho_hat), abs=1e-9)


def test_kl_penalty_has_the_target_first() -> None:
    """KL(0.5 || 0.1) = ½ ln 5 + ½ ln(5/9), not KL(0.1 || 0.5): the order matters (erratum)."""
    got = float(bernoulli_divergence(torch.tensor([0.1], dtype=torch.float64), 0.5))
    assert got == pytest.approx(0.5 * math.log(5) + 0.5 * math.log(5 / 9))
    swapped = 0.1 * math.log(0.1 / 0.5) + 0.9 * math.log(0.9 / 0.5)
    assert abs(got - swapped) > 0.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", abs(0.3 - 0.1) + abs(0.05 - 0.1)),
        ("l2", (0.3 - 0.1) ** 2 + (0.05 - 0.1) ** 2),
        (
            "kl",
            sum(0.1 * math.log(0.1 / r) + 0.9 * math.log(0.9 / (1 - r)) for r in (0.3, 0.05)),
        ),
    ],
)
def test_penalty_averages_each_unit_over_the_examples(name: str, expected: float) -> None:
    """Means go over the batch, 0.3 and 0.05 here, and the distances are summed over units."""
    activations = torch.tensor([[0.1, 0.1], [0.5, 0.0]], dtype=torch.float64)
    got = sparsity_penalty(activations, 0.1, SPARSITY_DISTANCES[name])
    assert float(got.detach()) == pytest.approx(expected)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_impossible_targets_of_the_kl_penalty_are_refused(target: float) -> None:
    """A unit that shall never or always be on has no finite divergence."""
    with pytest.raises(ValueError, match=f"between 0 and 1, got {target}"):
        bernoulli_divergence(torch.tensor([0.5]), target)
