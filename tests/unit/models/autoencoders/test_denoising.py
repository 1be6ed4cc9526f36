"""Denoising autoencoders: the linear optimum, and what a denoiser knows of its data."""

import torch
from torch import Tensor, nn

from atril_models import create_model
from atril_models.autoencoders.corruption import GaussianNoise
from atril_models.autoencoders.dense import DenseAutoencoder

SIDE = 5
SIGMA = 0.7


def _covariance() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(SIDE, SIDE, generator=generator, dtype=torch.float64)
    return mixing @ mixing.T / SIDE + 0.1 * torch.eye(SIDE, dtype=torch.float64)


def _linear_network() -> DenseAutoencoder:
    torch.manual_seed(0)
    network = create_model("linear-autoencoder", image_shape=(1, 1, SIDE), code_size=SIDE)
    assert isinstance(network, DenseAutoencoder)
    return network.double()


def _map_of(network: nn.Module) -> Tensor:
    """The matrix of a linear network whose biases cancel."""
    basis = torch.eye(SIDE, dtype=torch.float64).view(SIDE, 1, 1, SIDE)
    origin = network(torch.zeros(1, 1, 1, SIDE, dtype=torch.float64))
    return (network(basis) - origin).flatten(1).T.detach()


def _points_with_moments(covariance: Tensor) -> Tensor:
    """Points ±√n·column of the root: their mean is 0 and their covariance exact."""
    root = torch.linalg.cholesky(covariance) * len(covariance) ** 0.5
    return torch.cat([root.T, -root.T])


def test_linear_denoiser_learns_the_wiener_filter() -> None:
    """Fitted to data and noise of known moments, it is C(C + sigma² I)^-1 (Vincent et al. 2010).

    Every point is spoilt by every noise, so that data and noise are uncorrelated exactly and the
    expectation over the noise is a sum.
    """
    covariance = _covariance()
    clean = _points_with_moments(covariance)
    noise = _points_with_moments(SIGMA**2 * torch.eye(SIDE, dtype=torch.float64))
    spoilt = (clean[:, None] + noise[None]).reshape(-1, 1, 1, SIDE)
    target = clean[:, None].expand(-1, len(noise), -1).reshape(-1, 1, 1, SIDE)
    network = _linear_network()
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=500, tolerance_grad=1e-11, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (network(spoilt) - target).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)

    noisy_precision = torch.linalg.inv(covariance + SIGMA**2 * torch.eye(SIDE))
    learnt = _map_of(network)
    torch.testing.assert_close(learnt, covariance @ noisy_precision, atol=1e-5, rtol=0)
    # (r(x) - x) / sigma² is the score of the spoilt data, -(C + sigma² I)^-1 x for a Gaussian
    # (Alain & Bengio 2014).
    score = (learnt - torch.eye(SIDE)) / SIGMA**2
    torch.testing.assert_close(score, -noisy_precision, atol=1e-4, rtol=0)


def test_drawn_noise_leads_to_the_same_filter() -> None:
    """Least squares on 200,000 pictures spoilt by `GaussianNoise` gives it within 2 %."""
    covariance = _covariance()
    generator = torch.Generator().manual_seed(1)
    white = torch.randn(200_000, SIDE, generator=generator, dtype=torch.float64)
    clean = white @ torch.linalg.cholesky(covariance).T
    spoilt = GaussianNoise(SIGMA)(clean.view(-1, 1, 1, SIDE), generator).flatten(1)
    learnt = torch.linalg.lstsq(spoilt, clean).solution.T
    expected = covariance @ torch.linalg.inv(covariance + SIGMA**2 * torch.eye(SIDE))
    assert torch.linalg.matrix_norm(learnt - expected) < 0.02 * torch.linalg.matrix_norm(expected)


def test_published_form_is_tied_and_sigmoid() -> None:
    """The formula h = s(Wx + b), x~ = s(W'h + c), written out."""
    torch.manual_seed(0)
    network = create_model("denoising-autoencoder", image_shape=(1, 2, 3), widths=(4,))
    image = torch.rand(5, 1, 2, 3)
    weight, bias, output_bias = list(network.parameters())
    hidden = torch.sigmoid(image.flatten(1) @ weight.T + bias)
    expected = torch.sigmoid(hidden @ weight + output_bias)
    torch.testing.assert_close(network(image).flatten(1), expected)
