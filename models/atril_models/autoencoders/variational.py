"""Variational autoencoders.

Dimensions: B batch, C channels, H height, W width, D = C·H·W inputs, F features, Z latents.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.activations import hidden_layer
from atril_models.architecture import Architecture, Family, ImageSpec
from atril_models.autoencoders.autoencoder import MNIST_SHAPE, Autoencoder, image_spec
from atril_models.autoencoders.convolutional import contracted_shape, contracting, expanding


class ProbabilisticDecoder(nn.Module, ABC):
    """p(x | z): a distribution over pictures for each latent vector."""

    @abstractmethod
    def mean(self, latent: Tensor) -> Tensor:
        """The mean picture of each latent vector: [B, Z] to [B, C, H, W]."""

    @abstractmethod
    def log_likelihood(self, image: Tensor, latent: Tensor) -> Tensor:
        """The log-likelihood log p(x | z) in nats, summed over the picture: [B]."""


class BernoulliDecoder(ProbabilisticDecoder):
    """Each pixel is on with its own probability s(f(z)).

    log p(x | z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i), y = s(f(z)). It is a likelihood only
    of pictures whose pixels are 0 or 1; for grey ones it is a cross-entropy.

    Source: Kingma & Welling 2014, appendix C.1.

    Args:
        body: f, from latents [B, Z] to log odds [B, C, H, W].
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def mean(self, latent: Tensor) -> Tensor:
        """The probability of each pixel."""
        return torch.sigmoid(self.body(latent))

    def log_likelihood(self, image: Tensor, latent: Tensor) -> Tensor:
        """The negative cross-entropy of each picture."""
        log_odds = self.body(latent)
        bits = functional.binary_cross_entropy_with_logits(log_odds, image, reduction="none")
        return -bits.flatten(1).sum(dim=1)


class GaussianDecoder(ProbabilisticDecoder):
    """Each pixel has its own mean and variance.

    mu = W_1 h + b_1; sigma² = exp(W_2 h + b_2) + smallest_deviation²; h = f(z). Without a smallest
    deviation, a pixel that is the same in every picture would have a density without bound.

    Source: Kingma & Welling 2014, appendix C.2; lecture equation 4.3.4.

    Args:
        body: f, from latents [B, Z] to features [B, F].
        features: F.
        image: the picture's shape.
        smallest_deviation: of a pixel, in units of the full range 0 … 1.

    Raises:
        ValueError: smallest_deviation is not positive.
    """

    def __init__(
        self, body: nn.Module, features: int, image: ImageSpec, smallest_deviation: float
    ) -> None:
        super().__init__()
        if smallest_deviation <= 0:
            raise ValueError(f"smallest_deviation: expected more than 0, got {smallest_deviation}")
        self.body = body
        self.image = image
        self.smallest_deviation = smallest_deviation
        self.mu = nn.Linear(features, prod(image.shape))
        self.log_variance = nn.Linear(features, prod(image.shape))

    def distribution(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each pixel, each [B, D]."""
        features = self.body(latent)
        log_variance = self.log_variance(features)
        smallest = log_variance.new_tensor(2 * math.log(self.smallest_deviation))
        return self.mu(features), torch.logaddexp(log_variance, smallest)

    def mean(self, latent: Tensor) -> Tensor:
        """The mean of each pixel."""
        mu, _log_variance = self.distribution(latent)
        return mu.view(-1, *self.image.shape)

    def log_likelihood(self, image: Tensor, latent: Tensor) -> Tensor:
        """The log density of each picture."""
        return log_normal(image.flatten(1), *self.distribution(latent))


class VariationalAutoencoder(Autoencoder):
    """A probabilistic encoder q(z | x) = N(mu, diag sigma²) and a probabilistic decoder p(x | z).

    `encode` returns mu and log sigma². `forward` draws nothing: it decodes mu, so that what is
    exported answers the same to the same picture. Learning goes through `bounds.py`, which draws.

    Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes"; lecture 4.3.

    Args:
        image: the picture's shape.
        encoder: from pictures [B, C, H, W] to features [B, F].
        features: F.
        latents: number of latent variables, Z.
        decoder: p(x | z).

    Raises:
        ValueError: latents < 1.
    """

    encoder_outputs = ("mu", "log_variance")
    whole_outputs = ("reconstruction", "mu", "log_variance")

    def __init__(
        self,
        image: ImageSpec,
        encoder: nn.Module,
        features: int,
        latents: int,
        decoder: ProbabilisticDecoder,
    ) -> None:
        super().__init__(image, (latents,))
        self.encoder = encoder
        self.mu = nn.Linear(features, latents)
        self.log_variance = nn.Linear(features, latents)
        self.decoder = decoder

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), each [B, Z] (lecture equation 4.3.3)."""
        features = self.encoder(image)
        return self.mu(features), self.log_variance(features)

    def decode(self, code: Tensor) -> Tensor:
        """The mean of p(x | z)."""
        return self.decoder.mean(code)

    def log_likelihood(self, image: Tensor, latent: Tensor) -> Tensor:
        """The log-likelihood log p(x | z) in nats: [B]."""
        return self.decoder.log_likelihood(image, latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The picture decoded from mu, then mu and log sigma²."""
        mu, log_variance = self.encode(image)
        return self.decode(mu), mu, log_variance


def log_normal(value: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The log density of N(mean, diag exp(log_variance)) in nats, summed over the last dimension.

    Source: lecture equation 4.3.4.
    """
    squared = (value - mean).square() * torch.exp(-log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + squared).sum(dim=-1)


def _dense_layers(sizes: Sequence[int]) -> list[nn.Module]:
    return [hidden_layer(*pair, "tanh") for pair in pairwise(sizes)]


def _check_sizes(widths: Sequence[int], latents: int) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(f"widths: expected one or more, each at least 1, got {tuple(widths)}")
    if latents < 1:
        raise ValueError(f"latents: expected at least 1, got {latents}")


def _dense_encoder(image: ImageSpec, widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *_dense_layers([prod(image.shape), *widths]))


def _bernoulli(
    image_shape: Sequence[int] = MNIST_SHAPE, widths: Sequence[int] = (500,), latents: int = 20
) -> VariationalAutoencoder:
    _check_sizes(widths, latents)
    image = image_spec(image_shape)
    encoder = _dense_encoder(image, widths)
    log_odds = nn.Sequential(
        *_dense_layers([latents, *reversed(widths)]),
        nn.Linear(widths[0], prod(image.shape)),
        nn.Unflatten(1, image.shape),
    )
    return VariationalAutoencoder(image, encoder, widths[-1], latents, BernoulliDecoder(log_odds))


def _two_latents(
    image_shape: Sequence[int] = MNIST_SHAPE, widths: Sequence[int] = (500,)
) -> VariationalAutoencoder:
    return _bernoulli(image_shape, widths, latents=2)


def _gaussian(
    image_shape: Sequence[int] = MNIST_SHAPE,
    widths: Sequence[int] = (500,),
    latents: int = 20,
    smallest_deviation: float = 1 / 256,
) -> VariationalAutoencoder:
    _check_sizes(widths, latents)
    image = image_spec(image_shape)
    encoder = _dense_encoder(image, widths)
    body = nn.Sequential(*_dense_layers([latents, *reversed(widths)]))
    decoder = GaussianDecoder(body, widths[0], image, smallest_deviation)
    return VariationalAutoencoder(image, encoder, widths[-1], latents, decoder)


def _convolutional(
    image_shape: Sequence[int] = MNIST_SHAPE,
    widths: Sequence[int] = (32, 64),
    features: int = 256,
    latents: int = 20,
) -> VariationalAutoencoder:
    _check_sizes((*widths, features), latents)
    image = image_spec(image_shape)
    maps = contracted_shape(image, widths)
    encoder = nn.Sequential(
        contracting(image.channels, widths),
        nn.Flatten(),
        hidden_layer(prod(maps), features, "relu"),
    )
    log_odds = nn.Sequential(
        hidden_layer(latents, features, "relu"),
        hidden_layer(features, prod(maps), "relu"),
        nn.Unflatten(1, maps),
        expanding(widths, image.channels),
    )
    return VariationalAutoencoder(image, encoder, features, latents, BernoulliDecoder(log_odds))


_SOURCE = "Kingma & Welling 2014, ICLR, Auto-Encoding Variational Bayes"

ARCHITECTURES = (
    Architecture(
        name="vae",
        title="Variational autoencoder (VAE), Bernoulli decoder",
        family=Family.AUTOENCODER,
        lecture_section="4.3",
        source=f"{_SOURCE}, appendix C.1",
        formula="h = tanh(W x + b); mu = W_mu h + b_mu, log sigma² = W_s h + b_s; "
        "z = mu + sigma · e, e ~ N(0, I); x~ = s(W_1 tanh(W_2 z + b_2) + b_1). Maximises "
        "ELBO = E log p(x | z) - KL(q(z | x) || N(0, I)).",
        build=_bernoulli,
    ),
    Architecture(
        name="vae-2d",
        title="Variational autoencoder (VAE) with two latent variables",
        family=Family.AUTOENCODER,
        lecture_section="4.3",
        source=f"{_SOURCE}, figure 4",
        formula="The VAE with Bernoulli decoder and a latent plane: every picture is a point of it "
        "that can be looked at.",
        build=_two_latents,
    ),
    Architecture(
        name="gaussian-vae",
        title="Variational autoencoder (VAE), Gaussian decoder",
        family=Family.AUTOENCODER,
        lecture_section="4.3",
        source=f"{_SOURCE}, appendix C.2",
        formula="As the VAE with Bernoulli decoder, but p(x | z) = N(x; mu, diag sigma²) with "
        "mu = W_1 h + b_1, log sigma² = W_2 h + b_2, h = tanh(W_3 z + b_3).",
        build=_gaussian,
    ),
    Architecture(
        name="conv-vae",
        title="Convolutional variational autoencoder, Bernoulli decoder",
        family=Family.AUTOENCODER,
        lecture_section="4.3",
        source=_SOURCE,
        formula="As the VAE; the encoder has stages of a 3×3 convolution and a 4×4 one of stride "
        "2, ReLU after each, then a dense layer; the decoder mirrors it with transposed "
        "convolutions.",
        build=_convolutional,
    ),
)
