"""The bounds of variational autoencoders, against sampling, quadrature and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from atril_models import create_model
from atril_models.autoencoders.bounds import (
    estimate_elbo,
    importance_weighted_bound,
    kl_to_standard_normal,
    log_importance_weights,
    reparametrize,
)
from atril_models.autoencoders.variational import VariationalAutoencoder, log_normal


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(samples: int, batch: int, latents: int, seed: int = 0) -> Tensor:
    shape = (samples, batch, latents)
    return torch.randn(shape, generator=_seeded(seed), dtype=torch.float64)


def _posterior() -> tuple[Tensor, Tensor]:
    mu = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    log_variance = torch.tensor([[-1.0, 0.5, -3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    return mu, log_variance


def _vae(latents: int = 2) -> tuple[VariationalAutoencoder, Tensor]:
    """A network whose decoder depends strongly on z, and binary pictures."""
    torch.manual_seed(0)
    network = create_model("vae", image_shape=(1, 3, 4), widths=(8,), latents=latents)
    assert isinstance(network, VariationalAutoencoder)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1.5
    image = (torch.rand(16, 1, 3, 4, generator=_seeded(), dtype=torch.float64) > 0.5).double()
    return network.double(), image


def _log_evidence(network: VariationalAutoencoder, image: Tensor) -> Tensor:
    """The evidence log p(x) by the trapezoidal rule over one latent variable."""
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    log_prior = log_normal(grid, torch.zeros_like(grid), torch.zeros_like(grid))
    rows = []
    for picture in image:
        pictures = picture.expand(len(grid), *picture.shape)
        rows.append(torch.logsumexp(network.log_likelihood(pictures, grid) + log_prior, dim=0))
    return torch.stack(rows) + math.log(24 / 4000)


def test_divergence_in_closed_form_is_that_of_sampling() -> None:
    """-½ Σ(1 + log σ² - μ² - σ²) equals the mean of log q - log p over a million draws."""
    mu, log_variance = _posterior()
    latents = reparametrize(mu, log_variance, _noise(500_000, 2, 3))
    log_ratio = log_normal(latents, mu, log_variance) - log_normal(
        latents, torch.zeros_like(mu), torch.zeros_like(mu)
    )
    error = log_ratio.std(dim=0) / len(latents) ** 0.5
    difference = (log_ratio.mean(dim=0) - kl_to_standard_normal(mu, log_variance)).abs()
    assert (difference <= 5 * error + 1e-12).all()


def test_divergence_is_zero_exactly_at_the_prior() -> None:
    """KL(N(0, I) || N(0, I)) = 0, and positive elsewhere."""
    divergence = kl_to_standard_normal(*_posterior())
    assert float(divergence[1]) == 0
    assert float(divergence[0]) > 0


def test_divergence_matches_the_librarys() -> None:
    """torch.distributions gives the same."""
    mu, log_variance = _posterior()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mu, torch.exp(log_variance / 2)), normal(torch.zeros(()), torch.ones(()))
    ).sum(dim=-1)
    torch.testing.assert_close(kl_to_standard_normal(mu, log_variance), expected)


def test_samples_have_the_posteriors_moments() -> None:
    """Samples z = mu + sigma·e has mean mu and variance sigma², one for each picture."""
    mu, log_variance = _posterior()
    latents = reparametrize(mu, log_variance, _noise(200_000, 2, 3))
    assert latents.shape == (200_000, 2, 3)
    torch.testing.assert_close(latents.mean(dim=0), mu, atol=0.02, rtol=0)
    torch.testing.assert_close(latents.var(dim=0), log_variance.exp(), atol=0, rtol=0.02)


def test_reparametrised_gradient_on_a_gaussian_is_the_analytic_one() -> None:
    """d/dmu E[z²] = 2 mu and d/dlog σ² E[z²] = σ², as E[z²] = mu² + σ²."""
    mu, log_variance = (part.requires_grad_() for part in _posterior())
    latents = reparametrize(mu, log_variance, _noise(400_000, 2, 3))
    latents.square().mean(dim=0).sum().backward()
    assert mu.grad is not None
    assert log_variance.grad is not None
    torch.testing.assert_close(mu.grad, 2 * mu.detach(), atol=0.02, rtol=0)
    torch.testing.assert_close(log_variance.grad, log_variance.detach().exp(), atol=0.02, rtol=0)


def test_reparametrised_gradient_is_that_of_finite_differences() -> None:
    """With the noise held fixed, autograd's gradient of the ELBO is that of central differences."""
    network, image = _vae()

    def bound() -> Tensor:
        return estimate_elbo(network, image, _noise(3, 16, 2)).value.mean()

    bound().backward()
    step = 1e-6
    for parameter in network.parameters():
        for position in (0, parameter.numel() // 2, parameter.numel() - 1):
            flat = parameter.data.view(-1)
            value = float(flat[position])
            flat[position] = value + step
            above = float(bound().detach())
            flat[position] = value - step
            below = float(bound().detach())
            flat[position] = value
            assert parameter.grad is not None
            slope = float(parameter.grad.view(-1)[position])
            assert slope == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)


def test_elbo_is_likelihood_less_divergence() -> None:
    """The estimate of lecture 4.3.8 for L samples, written out sample by sample."""
    network, image = _vae()
    estimate = estimate_elbo(network, image, _noise(4, 16, 2))
    mu, log_variance = network.encode(image)
    latents = reparametrize(mu, log_variance, _noise(4, 16, 2))
    likelihood = sum((network.log_likelihood(image, z) for z in latents), torch.zeros(())) / 4
    torch.testing.assert_close(estimate.log_likelihood, likelihood)
    torch.testing.assert_close(estimate.kl, kl_to_standard_normal(mu, log_variance))
    torch.testing.assert_close(estimate.value, likelihood - estimate.kl)


def test_more_samples_estimate_the_same_bound_with_less_spread() -> None:
    """The mean over seeds stays and the variance falls about as 1 / L."""
    network, image = _vae()
    spread = {}
    for samples in (1, 16):
        with torch.no_grad():
            values = torch.stack(
                [
                    estimate_elbo(network, image, _noise(samples, 16, 2, s)).value.mean()
                    for s in range(200)
                ]
            )
        spread[samples] = (float(values.mean()), float(values.var()))
    (mean_1, variance_1), (mean_16, variance_16) = spread[1], spread[16]
    assert mean_16 == pytest.approx(mean_1, abs=5 * (variance_1 / 200) ** 0.5)
    assert 8 < variance_1 / variance_16 < 32


def test_bounds_rise_with_the_samples_towards_the_evidence() -> None:
    """ELBO <= IWAE_2 <= IWAE_8 <= … <= log p(x), which quadrature gives for one latent."""
    network, image = _vae(latents=1)
    with torch.no_grad():
        evidence = float(_log_evidence(network, image).mean())
        elbo = float(estimate_elbo(network, image, _noise(8192, 16, 1, seed=1)).value.mean())
        weights = log_importance_weights(network, image, _noise(8192, 16, 1))  # [K, B]
    bounds = []
    for size in (1, 2, 8, 64, 512):
        groups = weights.view(-1, size, weights.shape[1])  # the same samples, in groups
        bounds.append(
            float(torch.stack([importance_weighted_bound(group) for group in groups]).mean())
        )
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(elbo, abs=0.05)
    assert bounds[0] < evidence - 0.05  # the gap is KL(q(z|x) || p(z|x)), lecture 4.3.7
    assert bounds[-1] <= evidence + 0.02
    assert bounds[-1] == pytest.approx(evidence, abs=0.02)


def test_gap_of_the_elbo_is_the_divergence_from_the_true_posterior() -> None:
    """Equation 4.3.7 as it should read, log p(x) = KL(q(z|x) || p(z|x)) + ELBO, by quadrature."""
    network, image = _vae(latents=1)
    network.requires_grad_(False)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    step = 24 / 4000
    evidence = _log_evidence(network, image)
    mu, log_variance = network.encode(image)
    for row, picture in enumerate(image[:4]):
        log_q = log_normal(grid, mu[row], log_variance[row])
        log_prior = log_normal(grid, torch.zeros_like(grid), torch.zeros_like(grid))
        log_joint = network.log_likelihood(picture.expand(4001, 1, 3, 4), grid) + log_prior
        q = log_q.exp() * step
        elbo = float((q * (log_joint - log_q)).sum())
        divergence = float((q * (log_q - (log_joint - evidence[row]))).sum())
        assert divergence > 0
        assert divergence + elbo == pytest.approx(float(evidence[row]), abs=1e-9)


def test_weighted_bound_of_equal_weights_is_their_log() -> None:
    """The mean of K equal weights is the weight; large ones do not overflow."""
    weights = torch.full((7, 2), 1000.0, dtype=torch.float64)
    torch.testing.assert_close(importance_weighted_bound(weights), weights[0])
