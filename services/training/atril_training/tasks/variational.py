"""Variational autoencoders.

Dimensions: N pictures, B batch, C channels, H height, W width, K samples.
"""

from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor

from atril_common.tasks import AutoencoderParts, GenerationTask, Task
from atril_models import Network
from atril_models.autoencoders.bounds import (
    estimate_elbo,
    importance_weighted_bound,
    log_importance_weights,
)
from atril_models.autoencoders.variational import GaussianDecoder, VariationalAutoencoder
from atril_training.baselines.densities import (
    independent_bits,
    independent_gaussians,
    joint_gaussian,
)
from atril_training.fitting import Objective, Validation, device_of
from atril_training.recipes.autoencoding import VariationalRecipe
from atril_training.tasks.autoencoding import (
    EVALUATION_SEED,
    RECONSTRUCTION,
    AutoencodingCourse,
    PictureObjective,
    as_rows,
    grey_levels,
)

_IMPORTANCE_BATCH_SIZE = 50


class VariationalCourse(AutoencodingCourse):
    """Teaches a variational autoencoder the distribution of pictures."""

    recipe: VariationalRecipe

    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """The negative ELBO."""
        return _NegativeElbo(network, self)

    def task(self, parts: AutoencoderParts) -> Task:
        """Generation, and what else can be done with latent vectors."""
        return GenerationTask(self.image, RECONSTRUCTION, parts)

    def drawn(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures as they are learnt and judged: bits, or grey levels made continuous.

        `pictures` are grey levels of 0 … 1 on the CPU.
        """
        if self.recipe.pixels == "binary":
            return torch.bernoulli(pictures, generator=generator)
        steps = self.recipe.levels - 1
        noise = torch.empty_like(pictures).uniform_(-0.5, 0.5, generator=generator)
        return (torch.round(pictures * steps) + noise) / steps

    def drawn_once(self, pictures: Tensor) -> Tensor:
        """Pictures as they are judged, always the same."""
        return self.drawn(pictures, torch.Generator().manual_seed(EVALUATION_SEED))

    def judge(self, network: Network) -> Mapping[str, float]:
        """On each test split, in nats a picture: the bounds with their signs turned, and the KL.

        The ELBO is the mean over as many samples as the importance-weighted bound has.
        """
        assert isinstance(network, VariationalAutoencoder)
        figures: dict[str, float] = {}
        count = self.recipe.importance_samples
        for name, split in self.test_splits.items():
            pictures = self.drawn_once(grey_levels(split.pixels)).to(device_of(network))
            elbo, weighted, divergence = _bounds(network, pictures, count)
            figures |= {
                f"{name}_negative_elbo": -elbo,
                f"{name}_negative_iwae_{count}": -weighted,
                f"{name}_kl": divergence,
            }
        return figures

    def baselines(self) -> Mapping[str, float]:
        """Nats a picture under distributions that need no network."""
        train = grey_levels(self.dataset.train.pixels)
        figures: dict[str, float] = {}
        for name, split in self.test_splits.items():
            test = as_rows(self.drawn_once(grey_levels(split.pixels)))
            if self.recipe.pixels == "binary":
                figures[f"{name}: independent pixels"] = independent_bits(as_rows(train), test)
                continue
            known, smallest = as_rows(self.drawn_once(train)), self._smallest_deviation()
            figures |= {
                f"{name}: independent pixels": independent_gaussians(known, test, smallest),
                f"{name}: one Gaussian": joint_gaussian(known, test, smallest),
            }
        return figures

    def _smallest_deviation(self) -> float:
        network = self.build()
        assert isinstance(network, VariationalAutoencoder)
        assert isinstance(network.decoder, GaussianDecoder)
        return network.decoder.smallest_deviation

    def with_shuffled_targets(self, seed: int) -> Self:
        """Every pixel of a training picture is that of another one, each pixel of one of its own.

        What is left to learn is the distribution of each pixel.
        """
        pixels = self.dataset.train.pixels
        rows = pixels.reshape(len(pixels), -1)
        shuffled = np.random.default_rng(seed).permuted(rows, axis=0).reshape(pixels.shape)
        return type(self)(self.recipe, self.dataset, shuffled)


class _NegativeElbo(PictureObjective):
    def __init__(self, network: Network, course: VariationalCourse) -> None:
        super().__init__(network, course)
        assert isinstance(network, VariationalAutoencoder)
        self.vae = network
        self.variational = course
        self.recipe = course.recipe
        self.known = course.drawn_once(self.validation.cpu()).to(device_of(network))
        self.divergence_weight = 1.0

    def epoch_started(self, epoch: int, epochs: int) -> None:
        """The divergence counts more every epoch of the warm-up (Sønderby et al. 2016)."""
        warm_up = max(1.0, self.recipe.divergence_warm_up * epochs)
        self.divergence_weight = min(1.0, epoch / warm_up)

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures drawn anew, and the noise of their latent vectors."""
        samples, latents = self.recipe.samples, self.vae.code_shape[0]
        for _given, wanted in super().batches(generator):
            pictures = self.variational.drawn(wanted.cpu(), generator)
            noise = torch.empty(samples, len(pictures), latents).normal_(generator=generator)
            yield pictures.to(wanted.device), noise.to(wanted.device)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Nats a picture."""
        pictures, noise = batch
        elbo = estimate_elbo(self.vae, pictures, noise)
        return (self.divergence_weight * elbo.kl - elbo.log_likelihood).mean()

    def validate(self) -> Validation:
        """The negative ELBO decides."""
        elbo, _weighted, divergence = _bounds(self.vae, self.known, 1)
        return Validation((elbo,), {"negative_elbo": -elbo, "kl": divergence})


def _bounds(
    network: VariationalAutoencoder, pictures: Tensor, samples: int
) -> tuple[float, float, float]:
    """Means over the pictures of the ELBO, the importance-weighted bound and the divergence.

    All come from the same samples, whose noise is always the same.
    """
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    totals = np.zeros(3)
    for part in torch.split(pictures, _IMPORTANCE_BATCH_SIZE):
        noise = torch.randn(samples, len(part), *network.code_shape, generator=generator)
        noise = noise.to(part.device)
        elbo = estimate_elbo(network, part, noise)
        weighted = importance_weighted_bound(log_importance_weights(network, part, noise))
        totals += [float(values.sum()) for values in (elbo.value, weighted, elbo.kl)]
    elbo_mean, weighted_mean, divergence = (totals / len(pictures)).tolist()
    return elbo_mean, weighted_mean, divergence
