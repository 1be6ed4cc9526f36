"""Autoencoders that take the noise from pictures of one size.

Dimensions: N pictures, B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atril_common.tasks import AutoencoderParts, DenoisingTask, Task
from atril_models import Network
from atril_models.autoencoders import Autoencoder, DeterministicAutoencoder
from atril_training.baselines.filters import (
    Filter,
    Picture,
    mean_psnr,
    median_of_nine,
    tuned_non_local_means,
)
from atril_training.baselines.projection import (
    LinearNoise,
    best_linear_estimate,
    principal_components,
)
from atril_training.fitting import Objective, Validation, device_of
from atril_training.recipes.autoencoding import DenoisingRecipe, Noise
from atril_training.tasks.autoencoding import (
    EVALUATION_SEED,
    PARITY_PICTURES,
    RECONSTRUCTION,
    AutoencodingCourse,
    PictureObjective,
    as_rows,
    grey_levels,
    in_batches,
)
from atril_training.tasks.probing import probe_baseline, probe_error
from atril_training.tasks.reconstruction import reconstruction_loss

BEST_SIMPLE = "best simple method"

_TUNING_PICTURES = 200
"""Simple methods are tuned on the first so many validation pictures."""

_COMPONENTS_TRIED = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class DenoisingCourse(AutoencodingCourse):
    """Teaches an autoencoder to give back the clean picture of a spoilt one."""

    recipe: DenoisingRecipe

    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """The loss of the reconstruction from the spoilt picture."""
        return _Denoising(network, self)

    def task(self, parts: AutoencoderParts) -> Task:
        """Denoising."""
        noise = self.recipe.noise
        return DenoisingTask(
            self.image, RECONSTRUCTION, noise.kind, noise.strength, any_size=False, parts=parts
        )

    def parity_pictures(self, _network: Autoencoder) -> Tensor:
        """Spoilt test pictures."""
        return self.spoilt(grey_levels(self.dataset.test.pixels[:PARITY_PICTURES]))

    def spoilt(self, pictures: Tensor) -> Tensor:
        """The pictures with the noise that they are judged with, always the same."""
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        return self.recipe.noise.corruption()(pictures, generator)

    def judge(self, network: Network) -> Mapping[str, float]:
        """On each test split the mean PSNR in dB, and how far that is above simple methods.

        Both are of pictures clipped to 0 … 1.
        """
        assert isinstance(network, DeterministicAutoencoder)
        figures: dict[str, float] = {}
        for name, split in self.test_splits.items():
            clean = grey_levels(split.pixels)
            psnr = mean_psnr(as_rows(denoised(network, self.spoilt(clean))), as_rows(clean))
            figures[f"{name}_psnr_db"] = psnr
            figures[f"{name}_gain_db"] = psnr - self._simple_methods[f"{name}: {BEST_SIMPLE}"]
        if self.recipe.probe is not None:
            figures["test_probe_error"] = probe_error(
                network, self.dataset, self.recipe.probe, self.recipe.seed
            )
        return figures

    def baselines(self) -> Mapping[str, float]:
        """PSNR of simple methods; the gain of the best of them over itself is none."""
        figures = dict(self._simple_methods)
        figures |= {f"{name}: {BEST_SIMPLE}, gain": 0.0 for name in self.test_splits}
        recipe = self.recipe
        if recipe.probe is not None:
            figures |= probe_baseline(self.build(), self.dataset, recipe.probe, recipe.seed)
        return figures

    @cached_property
    def _simple_methods(self) -> Mapping[str, float]:
        methods = self._methods()
        figures: dict[str, float] = {}
        for name, split in self.test_splits.items():
            clean = grey_levels(split.pixels)
            spoilt = self.spoilt(clean)
            of_split = {
                f"{name}: {method}": mean_psnr(apply(spoilt), as_rows(clean))
                for method, apply in methods.items()
            }
            figures |= of_split | {f"{name}: {BEST_SIMPLE}": max(of_split.values())}
        return figures

    def _methods(self) -> Mapping[str, Callable[[Tensor], NDArray[np.float64]]]:
        """From spoilt pictures [N, C, H, W] to estimates as rows, all within 0 … 1."""
        noise = self.recipe.noise
        train = as_rows(grey_levels(self.dataset.train.pixels))
        components, count = principal_components(train), self._best_count()
        moments = linear_noise(noise)
        methods: dict[str, Callable[[Tensor], NDArray[np.float64]]] = {
            "clipping": lambda spoilt: as_rows(spoilt).clip(0, 1),
            "principal components": lambda spoilt: components.project(as_rows(spoilt), count).clip(
                0, 1
            ),
            "best linear estimate": lambda spoilt: best_linear_estimate(
                train, moments, as_rows(spoilt)
            ).clip(0, 1),
            "median of nine": lambda spoilt: _filtered(spoilt, median_of_nine),
        }
        if noise.kind == "gaussian":
            means = self._tuned_means(noise.strength)
            methods["non-local means"] = lambda spoilt: _filtered(spoilt, means)
        return methods

    def _best_count(self) -> int:
        """The number of components that does best on the validation split."""
        components = principal_components(as_rows(grey_levels(self.dataset.train.pixels)))
        clean = grey_levels(self.dataset.validation.pixels)
        spoilt, rows = as_rows(self.spoilt(clean)), as_rows(clean)
        counts = [count for count in _COMPONENTS_TRIED if count <= rows.shape[1]]
        return max(counts, key=lambda k: mean_psnr(components.project(spoilt, k).clip(0, 1), rows))

    def _tuned_means(self, deviation: float) -> Filter:
        clean = grey_levels(self.dataset.validation.pixels[:_TUNING_PICTURES])
        return tuned_non_local_means(deviation, _planes(self.spoilt(clean)), _planes(clean))


class _Denoising(PictureObjective):
    def __init__(self, network: Network, course: DenoisingCourse) -> None:
        super().__init__(network, course)
        assert isinstance(network, DeterministicAutoencoder)
        self.autoencoder = network
        self.kind = course.recipe.loss
        self.corruption = course.recipe.noise.corruption()
        device = device_of(network)
        clean = grey_levels(course.dataset.validation.pixels)
        self.spoilt_validation = course.spoilt(clean).to(device)

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Spoilt pictures and clean ones."""
        for given, wanted in super().batches(generator):
            # The noise is drawn where the generator is, so that it is the same on every device.
            yield self.corruption(given.cpu(), generator).to(given.device), wanted

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Of the reconstruction, against the clean picture."""
        spoilt, wanted = batch
        return reconstruction_loss(self.autoencoder, spoilt, wanted, self.kind)

    def validate(self) -> Validation:
        """The PSNR decides."""
        estimates = denoised(self.autoencoder, self.spoilt_validation)
        psnr = mean_psnr(as_rows(estimates), as_rows(self.validation))
        return Validation((psnr,), {"psnr_db": psnr})


def linear_noise(noise: Noise) -> LinearNoise:
    """The moments of a noise."""
    if noise.kind == "gaussian":
        return LinearNoise(kept=1.0, offset=0.0, power=noise.strength**2)
    white = noise.strength / 2 if noise.kind == "salt-and-pepper" else 0.0
    return LinearNoise(kept=1 - noise.strength, offset=white, power=white)


def denoised(network: Network, spoilt: Tensor) -> Tensor:
    """What a network makes of spoilt pictures, within 0 … 1, on the CPU."""
    device = device_of(network)
    estimates = [network(part.to(device)).clamp(0, 1).cpu() for part in in_batches(spoilt)]
    return torch.cat(estimates)


def _filtered(spoilt: Tensor, apply: Filter) -> NDArray[np.float64]:
    """A filter of one plane, applied to every channel of every picture."""
    planes = np.stack([apply(plane) for plane in _planes(spoilt)])
    return planes.reshape(len(spoilt), -1)


def _planes(pictures: Tensor) -> list[Picture]:
    return list(pictures.flatten(0, 1).double().numpy())
