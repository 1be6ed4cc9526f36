"""Denoising of photographs of any size.

Dimensions: N photographs or patches, B batch, H height, W width.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atril_common.tasks import DenoisingTask, ImageInput
from atril_models import Network
from atril_training.baselines.filters import (
    Picture,
    clipped,
    mean_psnr,
    tuned_blur,
    tuned_non_local_means,
)
from atril_training.datasets import PHOTOGRAPH_DATASETS, FileSource, PhotographDataset
from atril_training.datasets.photographs import Photograph
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, ParityCase, TensorSpec
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.recipes.autoencoding import PhotographRecipe
from atril_training.tasks.autoencoding import EVALUATION_SEED, RECONSTRUCTION
from atril_training.tasks.course import Course, DataFacts

IMAGE = "image"
HEIGHT = "height"
WIDTH = "width"

_PARITY_SIZES = ((1, 40, 40), (1, 1, 7), (3, 33, 1), (7, 64, 97), (64, 40, 40))
"""Batch, height and width of what parity is measured on: odd, tiny and oblong ones too."""

_TRACED_SIZE = (2, 24, 28)


class PhotographCourse(Course):
    """Teaches a denoiser on patches of photographs, and judges it on whole ones.

    Where `shuffled` is a seed, every patch is to become another one.
    """

    def __init__(
        self, recipe: PhotographRecipe, dataset: PhotographDataset, shuffled: int | None = None
    ) -> None:
        super().__init__(recipe)
        self.recipe: PhotographRecipe = recipe
        self.dataset = dataset
        self.shuffled = shuffled

    @classmethod
    def prepare(cls, recipe: PhotographRecipe, source: FileSource) -> Self:
        """Load the recipe's photographs."""
        return cls(recipe, PHOTOGRAPH_DATASETS[recipe.dataset](source))

    @property
    def data(self) -> DataFacts:
        """The photographs of each split."""
        sets = self.dataset
        return DataFacts(
            name=sets.name,
            checksums_sha256=sets.checksums,
            examples={
                "train": len(sets.train),
                "validation": len(sets.validation),
                **{name: len(split) for name, split in sets.tests.items()},
            },
            held_out=sets.held_out,
        )

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Squared error of the denoised patch; the best epoch is that with the highest PSNR."""
        objective = _Patches(network, self)
        recipe = self.recipe
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    def judge(self, network: Network) -> Mapping[str, float]:
        """On each test split the mean PSNR in dB of whole photographs, clipped to 0 … 1."""
        return {
            f"{name}_psnr_db": psnr_of(network, split, self.recipe.deviation)
            for name, split in self.dataset.tests.items()
        }

    def baselines(self) -> Mapping[str, float]:
        """PSNR of simple methods, those with a strength tuned on the validation photographs."""
        deviation = self.recipe.deviation
        known = [grey(photograph) for photograph in self.dataset.validation]
        spoilt = [noisy(photograph, deviation) for photograph in self.dataset.validation]
        methods = {
            "clipping": clipped,
            "Gaussian blur": tuned_blur(spoilt, known),
            "non-local means": tuned_non_local_means(deviation, spoilt, known),
        }
        figures: dict[str, float] = {}
        for name, split in self.dataset.tests.items():
            clean = [grey(photograph) for photograph in split]
            spoilt = [noisy(photograph, deviation) for photograph in split]
            for method, apply in methods.items():
                figures[f"{name}: {method}"] = mean_psnr([apply(one) for one in spoilt], clean)
        return figures

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One graph for photographs of any height and width."""
        dims = (BATCH_DIMENSION, 1, HEIGHT, WIDTH)
        side = self.recipe.patch_side
        given = ImageInput(IMAGE, side, side, (0.0,), (1.0,))
        return (
            Export(
                module=network,
                inputs=(TensorSpec(IMAGE, dims),),
                outputs=(OutputSpec(RECONSTRUCTION, dims),),
                example=(self._crops(*_TRACED_SIZE),),
                cases=tuple(
                    ParityCase(
                        {BATCH_DIMENSION: batch, HEIGHT: height, WIDTH: width},
                        [(self._crops(batch, height, width),)],
                    )
                    for batch, height, width in _PARITY_SIZES
                ),
                task=DenoisingTask(
                    given, RECONSTRUCTION, "gaussian", self.recipe.deviation, any_size=True
                ),
                max_batch_size=16,
            ),
        )

    def with_shuffled_targets(self, seed: int) -> Self:
        """Every patch is to become another one of its batch."""
        return type(self)(self.recipe, self.dataset, shuffled=seed)

    def _crops(self, batch: int, height: int, width: int) -> Tensor:
        """Parts of noisy test photographs, one after the other along their diagonals."""
        spoilt = [
            noisy(photograph, self.recipe.deviation)
            for split in self.dataset.tests.values()
            for photograph in split
        ]
        crops = []
        for number in range(batch):
            photograph = spoilt[number % len(spoilt)]
            room = min(photograph.shape[0] - height, photograph.shape[1] - width)
            at = 13 * number % max(1, room)
            crops.append(photograph[at : at + height, at : at + width])
        return torch.from_numpy(np.stack(crops)[:, None]).float()


class _Patches(Objective[tuple[Tensor, Tensor]]):
    """Noisy patches and clean ones, [B, 1, side, side]."""

    def __init__(self, network: Network, course: PhotographCourse) -> None:
        self.network = network
        self.recipe = course.recipe
        self.course = course
        self.photographs = [torch.from_numpy(one.copy()) for one in course.dataset.train]
        sizes = [one.numel() for one in self.photographs]
        self.shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self.recipe.patches // self.recipe.optimization.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Every photograph is drawn as often as its area is large."""
        device = device_of(self.network)
        batch = self.recipe.optimization.batch_size
        for _ in range(self.steps):
            rows = torch.multinomial(self.shares, batch, replacement=True, generator=generator)
            patches = [self._patch(self.photographs[row], generator) for row in rows.tolist()]
            clean = torch.stack(patches)[:, None].float() / 255
            noise = torch.empty_like(clean).normal_(generator=generator)
            spoilt = clean + self.recipe.deviation * noise
            if self.course.shuffled is not None:
                order = torch.randperm(
                    batch, generator=torch.Generator().manual_seed(self.course.shuffled)
                )
                clean = clean[order]
            yield spoilt.to(device), clean.to(device)

    def _patch(self, photograph: Tensor, generator: torch.Generator) -> Tensor:
        """A square at a random place, turned by a random quarter and mirrored at random."""
        side = self.recipe.patch_side
        height, width = photograph.shape
        top, left, turns, mirrored = (
            int(torch.randint(high, (1,), generator=generator))
            for high in (height - side + 1, width - side + 1, 4, 2)
        )
        patch = photograph[top : top + side, left : left + side].rot90(turns)
        return patch.flip(1) if mirrored else patch

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The squared error of a pixel, in the mean."""
        spoilt, clean = batch
        return functional.mse_loss(self.network(spoilt), clean)

    def validate(self) -> Validation:
        """The PSNR of whole photographs decides."""
        psnr = psnr_of(self.network, self.course.dataset.validation, self.recipe.deviation)
        return Validation((psnr,), {"psnr_db": psnr})


def psnr_of(network: Network, photographs: Sequence[Photograph], deviation: float) -> float:
    """The mean over whole photographs of the PSNR in dB; what is denoised is clipped to 0 … 1."""
    device = device_of(network)
    estimates = []
    for photograph in photographs:
        spoilt = torch.from_numpy(noisy(photograph, deviation)).float()[None, None]
        estimates.append(network(spoilt.to(device)).clamp(0, 1)[0, 0].cpu().numpy())
    return mean_psnr(estimates, [grey(photograph) for photograph in photographs])


def grey(photograph: Photograph) -> Picture:
    """Levels of 0 … 255 as 0 … 1."""
    levels: Picture = photograph / 255
    return levels


def noisy(photograph: Photograph, deviation: float) -> Picture:
    """A photograph with the noise that it is judged with; it is not clipped.

    The noise is the same whenever it is asked for, and another one for photographs of another size.
    """
    generator = np.random.default_rng((EVALUATION_SEED, *photograph.shape))
    return grey(photograph) + deviation * generator.standard_normal(photograph.shape)
