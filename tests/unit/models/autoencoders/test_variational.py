"""Variational autoencoders: the likelihoods and what is served."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from atril_models import create_model
from atril_models.autoencoders.variational import (
    GaussianDecoder,
    VariationalAutoencoder,
    log_normal,
)


def _vae(name: str, **options: object) -> VariationalAutoencoder:
    torch.manual_seed(0)
    network = create_model(name, image_shape=(1, 2, 3), widths=(5,), latents=2, **options)
    assert isinstance(network, VariationalAutoencoder)
    return network.double()


def test_bernoulli_likelihood_is_the_distributions() -> None:
    """The likelihood of binary pictures equals torch's Bernoulli, summed over the pixels."""
    network = _vae("vae")
    image = (torch.rand(4, 1, 2, 3, dtype=torch.float64) > 0.5).double()
    latent = torch.randn(4, 2, dtype=torch.float64)
    expected = Bernoulli(network.decode(latent)).log_prob(image).flatten(1).sum(dim=1)
    torch.testing.assert_close(network.log_likelihood(image, latent), expected)


def test_bernoulli_likelihood_survives_certainty() -> None:
    """Log odds of ±1000 give 0 for the right pixel and -1000 for the wrong one, not -inf."""
    network = _vae("vae")
    last = network.decoder.body[-2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(1000.0)
    latent = torch.zeros(1, 2, dtype=torch.float64)
    image = torch.ones(1, 1, 2, 3, dtype=torch.float64)
    assert network.log_likelihood(image, latent).item() == 0
    image[0, 0, 0, 0] = 0
    assert network.log_likelihood(image, latent).item() == -1000


def test_gaussian_likelihood_is_equation_4_3_4() -> None:
    """Its mu = W1 h + b1, log sigma² = W2 h + b2, h = tanh(W3 z + b3), as by torch's Normal."""
    network = _vae("gaussian-vae", smallest_deviation=1e-9)
    decoder = network.decoder
    assert isinstance(decoder, GaussianDecoder)
    (w3, b3), (w1, b1), (w2, b2) = (
        list(part.parameters()) for part in (decoder.body, decoder.mu, decoder.log_variance)
    )
    image = torch.rand(4, 1, 2, 3, dtype=torch.float64)
    latent = torch.randn(4, 2, dtype=torch.float64)
    hidden = torch.tanh(latent @ w3.T + b3)
    mu = hidden @ w1.T + b1
    sigma = torch.exp((hidden @ w2.T + b2) / 2)
    expected = Normal(mu, sigma).log_prob(image.flatten(1)).sum(dim=1)
    torch.testing.assert_close(network.log_likelihood(image, latent), expected)
    torch.testing.assert_close(network.decode(latent).flatten(1), mu)


def test_density_of_a_constant_pixel_stays_bounded() -> None:
    """However small the variance asked for, no pixel's deviation falls below the smallest one."""
    smallest = 1 / 16
    network = _vae("gaussian-vae", smallest_deviation=smallest)
    decoder = network.decoder
    assert isinstance(decoder, GaussianDecoder)
    with torch.no_grad():
        decoder.log_variance.bias.fill_(-200.0)
    latent = torch.zeros(1, 2, dtype=torch.float64)
    best = network.log_likelihood(network.decode(latent), latent).item()
    assert best == pytest.approx(-6 * math.log(smallest * math.sqrt(2 * math.pi)))


def test_log_normal_is_the_distributions() -> None:
    """The log density equals torch's Normal, summed over the last dimension."""
    value, mean, log_variance = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = Normal(mean, torch.exp(log_variance / 2)).log_prob(value).sum(dim=-1)
    torch.testing.assert_close(log_normal(value, mean, log_variance), expected)


def test_whole_decodes_the_mean() -> None:
    """The reconstruction that is served is that of mu, and mu and log sigma² come with it."""
    network = _vae("vae")
    image = torch.rand(4, 1, 2, 3, dtype=torch.float64)
    reconstruction, mu, log_variance = network(image)
    assert torch.equal(reconstruction, network.decode(mu))
    for got, expected in zip((mu, log_variance), network.encode(image), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vae", {"latents": 0}, "latents: expected at least 1, got 0"),
        ("conv-vae", {"latents": 0}, "latents: expected at least 1, got 0"),
        ("vae", {"widths": ()}, r"widths: expected one or more, each at least 1, got \(\)"),
        ("conv-vae", {"features": 0}, r"each at least 1, got \(32, 64, 0\)"),
        ("gaussian-vae", {"smallest_deviation": 0.0}, "expected more than 0, got 0.0"),
    ],
)
def test_impossible_options_are_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    """The error names the option, what it was and what is allowed."""
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)
