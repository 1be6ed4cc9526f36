"""What the courses of all autoencoders of pictures share.

Dimensions: N pictures, B batch, C channels, H height, W width.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atril_common.tasks import AutoencoderParts, Task
from atril_models import Network
from atril_models.autoencoders import Autoencoder, DecoderPart, EncoderPart
from atril_training.datasets import PICTURE_DATASETS, FileSource, ImageDataset, Split
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, TensorSpec, batch_cases
from atril_training.fitting import Fit, Objective, Reporter, device_of, fit
from atril_training.recipes.autoencoding import AutoencodingRecipe
from atril_training.tasks.course import Course, DataFacts
from atril_training.tasks.pictures import shift_pictures

PARITY_PICTURES = 1000
"""Parity is measured on the first so many pictures of the test split."""

ENCODER_SUFFIX = "-encoder"
DECODER_SUFFIX = "-decoder"
CODE = "code"
RECONSTRUCTION = "reconstruction"

EVALUATION_BATCH_SIZE = 500
EVALUATION_SEED = 2024
"""Of the noise that test and validation pictures are spoilt with: it belongs to the judgement."""


class AutoencodingCourse(Course):
    """Teaches an autoencoder on the pictures of a data set.

    `wanted` are the pictures that the training pictures are to become, which are themselves where
    nothing was dealt out at random: uint8 [N, C, H, W].
    """

    def __init__(
        self,
        recipe: AutoencodingRecipe,
        dataset: ImageDataset,
        wanted: NDArray[np.uint8] | None = None,
    ) -> None:
        super().__init__(recipe)
        self.recipe: AutoencodingRecipe = recipe
        self.image = recipe.image_input()
        self.dataset = dataset
        self.wanted = dataset.train.pixels if wanted is None else wanted

    @classmethod
    def prepare(cls, recipe: AutoencodingRecipe, source: FileSource) -> Self:
        """Load the recipe's data at the size of its network."""
        image = recipe.image_input()
        return cls(recipe, PICTURE_DATASETS[recipe.dataset](image, source))

    def options(self) -> Mapping[str, object]:
        """The recipe's, and the shape of its pictures."""
        return {**self.recipe.options, "image_shape": self.recipe.picture.shape}

    @property
    def data(self) -> DataFacts:
        """The splits of the data set."""
        sets = self.dataset
        return DataFacts(
            name=sets.name,
            checksums_sha256=sets.checksums,
            examples={
                "train": len(sets.train),
                "validation": len(sets.validation),
                **{name: len(split) for name, split in self.test_splits.items()},
            },
            held_out=sets.held_out,
        )

    @property
    def test_splits(self) -> Mapping[str, Split]:
        """What the network is judged on, by name."""
        tail = self.dataset.tail
        return {"test": self.dataset.test} | ({} if tail is None else {"tail": tail})

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """One stage; the best epoch is that with the lowest loss on the validation split."""
        recipe = self.recipe
        objective = self.objective(network)
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    @abstractmethod
    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """What the network learns."""

    @abstractmethod
    def task(self, parts: AutoencoderParts) -> Task:
        """What the whole is served for."""

    def parity_pictures(self, _network: Autoencoder) -> Tensor:
        """Pictures to compare ONNX Runtime with PyTorch on, as they are given when served."""
        return grey_levels(self.dataset.test.pixels[:PARITY_PICTURES])

    def with_shuffled_targets(self, seed: int) -> Self:
        """Every picture to learn from is to become another one."""
        order = np.random.default_rng(seed).permutation(len(self.wanted))
        return type(self)(self.recipe, self.dataset, self.wanted[order])

    def exports(self, network: Network) -> tuple[Export, ...]:
        """The encoder, the decoder and the whole."""
        assert isinstance(network, Autoencoder)
        pictures = self.parity_pictures(network)
        with torch.no_grad():
            encoded = network.encode(pictures)
        code = encoded[0] if isinstance(encoded, tuple) else encoded
        picture: tuple[int | str, ...] = (BATCH_DIMENSION, *network.image.shape)
        codes: tuple[int | str, ...] = (BATCH_DIMENSION, *network.code_shape)
        image = TensorSpec(self.image.name, picture)
        encoder_outputs = tuple(OutputSpec(name, codes) for name in network.encoder_outputs)
        reconstruction = OutputSpec(RECONSTRUCTION, picture)
        parts = AutoencoderParts(
            encoder_suffix=ENCODER_SUFFIX,
            encoder_outputs=network.encoder_outputs,
            decoder_suffix=DECODER_SUFFIX,
            decoder_input=CODE,
            decoder_output=RECONSTRUCTION,
            code_shape=network.code_shape,
        )
        return (
            Export(
                suffix=ENCODER_SUFFIX,
                module=EncoderPart(network).eval(),
                inputs=(image,),
                outputs=encoder_outputs,
                example=(pictures[:2],),
                cases=batch_cases((pictures,)),
            ),
            Export(
                suffix=DECODER_SUFFIX,
                module=DecoderPart(network).eval(),
                inputs=(TensorSpec(CODE, codes),),
                outputs=(reconstruction,),
                example=(code[:2],),
                cases=batch_cases((code,)),
            ),
            Export(
                module=network,
                inputs=(image,),
                outputs=(
                    reconstruction,
                    *(OutputSpec(name, codes) for name in network.whole_outputs[1:]),
                ),
                example=(pictures[:2],),
                cases=batch_cases((pictures,)),
                task=self.task(parts),
            ),
        )


class PictureObjective(Objective[tuple[Tensor, Tensor]]):
    """Training pictures, moved a little, and those that they are to become.

    Both come as grey levels of 0 … 1, [B, C, H, W] float32 on the network's device.
    """

    def __init__(self, network: Network, course: AutoencodingCourse) -> None:
        self.network = network
        self.course = course
        device = device_of(network)
        both = np.concatenate([course.dataset.train.pixels, course.wanted], axis=1)
        self.pixels = torch.from_numpy(both).to(device)  # [N, 2·C, H, W]
        self.validation = grey_levels(course.dataset.validation.pixels).to(device)
        self.batch_size = min(course.recipe.optimization.batch_size, len(both))

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return len(self.pixels) // self.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures as they are given and as they are wanted."""
        order = torch.randperm(len(self.pixels), generator=generator).to(self.pixels.device)
        for rows in torch.split(order, self.batch_size)[: self.steps]:
            pixels = self.pixels[rows]
            if self.course.recipe.max_shift:
                pixels = shift_pictures(pixels, self.course.recipe.max_shift, generator)
            given, wanted = (pixels.float() / 255).chunk(2, dim=1)
            yield given, wanted


def grey_levels(pixels: NDArray[np.uint8]) -> Tensor:
    """Levels of 0 … 255 as 0 … 1, float32."""
    return torch.from_numpy(pixels).float() / 255


def as_rows(pictures: Tensor) -> NDArray[np.float64]:
    """Pictures [N, ...] as rows [N, D] in float64."""
    rows: NDArray[np.float64] = pictures.flatten(1).double().cpu().numpy()
    return rows


def in_batches(pictures: Tensor) -> Iterator[Tensor]:
    """The pictures in parts that fit into memory with all that a network makes of them."""
    yield from torch.split(pictures, EVALUATION_BATCH_SIZE)
