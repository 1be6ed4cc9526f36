"""The recipes of autoencoders."""

from dataclasses import dataclass
from typing import Literal

from atril_common.tasks import ImageInput
from atril_models import ImageSpec
from atril_models.autoencoders.corruption import (
    Corruption,
    GaussianNoise,
    Masking,
    SaltAndPepper,
)
from atril_training.recipes.recipe import Optimization, Recipe
from atril_training.recipes.variants import RECONSTRUCTION_VARIANTS, VariantBars


@dataclass(frozen=True, slots=True)
class Noise:
    """What pictures are spoilt with.

    `strength` is the standard deviation of Gaussian noise, or the share of the values that
    salt-and-pepper or masking replaces.
    """

    kind: Literal["gaussian", "salt-and-pepper", "masking"]
    strength: float

    def corruption(self) -> Corruption:
        """The function that spoils."""
        if self.kind == "gaussian":
            return GaussianNoise(self.strength)
        return (SaltAndPepper if self.kind == "salt-and-pepper" else Masking)(self.strength)


@dataclass(frozen=True, slots=True)
class Penalty:
    """What is added to the loss of a reconstruction.

    Args:
        kind: the squared Jacobian norm of the encoder, or the distance of the units' mean
            activation from a target.
        weight: that it is multiplied by.
        target: the mean activation wanted; of no meaning to the contractive penalty.
    """

    kind: Literal["contractive", "l1", "l2", "kl"]
    weight: float
    target: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How well the learnt code tells the labels: a classifier on it, trained to measure that.

    Args:
        optimization: of the classifier.
        fine_tuned: the encoder goes on learning with the classifier, instead of being fixed.
    """

    optimization: Optimization
    fine_tuned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencodingRecipe(Recipe):
    """What the recipes of all autoencoders of pictures have; pictures are grey levels of 0 … 1.

    Args:
        picture: the size that every picture is brought to, which is the network's.
        max_shift: each picture is moved by up to so many pixels each way, anew in each epoch.
    """

    picture: ImageSpec
    max_shift: int = 0

    def image_input(self) -> ImageInput:
        """How a picture becomes the network's input, in training as in serving."""
        channels, height, width = self.picture.shape
        return ImageInput("image", height, width, (0.0,) * channels, (1.0,) * channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionRecipe(AutoencodingRecipe):
    """How an autoencoder learns to give back what it is given.

    Args:
        loss: squared error, or cross-entropy (for networks whose output unit is a sigmoid), summed
            over the picture.
        components: of the principal component analysis that it is compared with.
        penalty: on the code, if any.
        initial_k: a k-sparse autoencoder starts with so many active units, which become `k` over
            the first half of the epochs.
        probe: how the code's features are judged, if they are.
    """

    loss: Literal["squared error", "cross-entropy"]
    components: int
    penalty: Penalty | None = None
    initial_k: int | None = None
    probe: Probe | None = None
    variants: tuple[VariantBars, ...] = RECONSTRUCTION_VARIANTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalSubspaceRecipe(ReconstructionRecipe):
    """How a linear autoencoder is brought to the principal subspace: in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoisingRecipe(AutoencodingRecipe):
    """How an autoencoder learns to give back the clean picture of a spoilt one.

    Args:
        noise: what the pictures are spoilt with, in training and in judging.
        loss: as in `ReconstructionRecipe`.
        probe: how the code's features of clean pictures are judged, if they are.
    """

    noise: Noise
    loss: Literal["squared error", "cross-entropy"]
    probe: Probe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariationalRecipe(AutoencodingRecipe):
    """How a variational autoencoder learns the distribution of pictures.

    Args:
        pixels: `binary` draws each pixel as 0 or 1 with its grey level as probability, anew in each
            epoch (dynamic binarisation; once and for all for the test splits). `grey` adds to each
            of `levels` grey levels noise as wide as one, so that the density of the result bounds
            the probability of the levels.
        levels: number of grey levels; of no meaning to binary pixels.
        samples: latent vectors drawn for each picture and step, L.
        importance_samples: K of the importance-weighted bound that is measured beside the ELBO.
        divergence_warm_up: over this share of the epochs the divergence's weight rises to 1.
    """

    pixels: Literal["binary", "grey"]
    levels: int = 256
    samples: int = 1
    importance_samples: int = 64
    divergence_warm_up: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographRecipe(Recipe):
    """How a denoiser of photographs learns from patches of them.

    An epoch is a number of patches, drawn at random, turned and mirrored.

    Args:
        deviation: of the Gaussian noise, in units of the full range 0 … 1.
        patch_side: height and width of a patch in pixels.
        patches: an epoch's.
    """

    deviation: float
    patch_side: int
    patches: int
