"""Lower bounds on log p(x) of a variational autoencoder.

Dimensions: B batch, Z latents, L or K samples.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from atril_models.autoencoders.variational import VariationalAutoencoder, log_normal


@dataclass(frozen=True, slots=True, eq=False)
class Elbo:
    """The evidence lower bound of each picture and its two parts, in nats, each [B].

    ELBO = E_q log p(x | z) - KL(q(z | x) || p(z))  (lecture equation 4.3.8).
    """

    log_likelihood: Tensor
    kl: Tensor

    @property
    def value(self) -> Tensor:
        """The bound: [B]."""
        return self.log_likelihood - self.kl


def kl_to_standard_normal(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, diag sigma²) || N(0, I)) = -1/2 sum(1 + log sigma² - mu² - sigma²), in nats.

    Source: Kingma & Welling 2014, appendix B; lecture equations 4.3.5 and 4.3.8.

    Shape:
        mu and log_variance [B, Z]; returns [B].
    """
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).sum(dim=-1)


def reparametrize(mu: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Samples z = mu + sigma · e of q(z | x), through which gradients reach mu and sigma.

    Source: Kingma & Welling 2014, §2.4; lecture 4.3, Figure 30.

    Args:
        mu: [B, Z].
        log_variance: log sigma², [B, Z].
        noise: e, drawn from N(0, I), [L, B, Z].

    Shape:
        returns [L, B, Z].
    """
    return mu + torch.exp(0.5 * log_variance) * noise


def estimate_elbo(network: VariationalAutoencoder, image: Tensor, noise: Tensor) -> Elbo:
    """The SGVB estimate: the likelihood averaged over samples, the divergence in closed form.

    Source: Kingma & Welling 2014, equation 7 (the second estimator); lecture equation 4.3.8.

    Args:
        network: the autoencoder.
        image: [B, C, H, W].
        noise: of L samples for each picture, drawn from N(0, I), [L, B, Z].
    """
    mu, log_variance = network.encode(image)
    latents = reparametrize(mu, log_variance, noise)
    likelihoods = _log_likelihoods(network, image, latents)
    return Elbo(likelihoods.mean(dim=0), kl_to_standard_normal(mu, log_variance))


def log_importance_weights(network: VariationalAutoencoder, image: Tensor, noise: Tensor) -> Tensor:
    """Log weights log w = log p(x | z) + log p(z) - log q(z | x) for samples z ~ q(z | x).

    Args:
        network: the autoencoder.
        image: [B, C, H, W].
        noise: of K samples for each picture, drawn from N(0, I), [K, B, Z].

    Shape:
        returns [K, B].
    """
    mu, log_variance = network.encode(image)
    latents = reparametrize(mu, log_variance, noise)
    prior = log_normal(latents, torch.zeros_like(mu), torch.zeros_like(mu))
    posterior = log_normal(latents, mu, log_variance)
    return _log_likelihoods(network, image, latents) + prior - posterior


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """The log of the mean of K importance weights, in nats.

    In expectation the ELBO for K = 1, never lower for more samples, and log p(x) in the limit.

    Source: Burda, Grosse & Salakhutdinov 2016, "Importance Weighted Autoencoders", equation 8.

    Shape:
        [K, B]; returns [B].
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def _log_likelihoods(network: VariationalAutoencoder, image: Tensor, latents: Tensor) -> Tensor:
    """The log-likelihood of every sample of every picture: latents [L, B, Z] to [L, B]."""
    samples, batch, _latents = latents.shape
    pictures = image.repeat(samples, 1, 1, 1)
    return network.log_likelihood(pictures, latents.flatten(0, 1)).view(samples, batch)
