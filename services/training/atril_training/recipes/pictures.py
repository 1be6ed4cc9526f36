"""The recipe of a classifier of pictures."""

from dataclasses import dataclass

from atril_common.tasks import ImageInput
from atril_models import ImageSpec
from atril_training.recipes.recipe import Recipe
from atril_training.recipes.variants import PICTURE_CLASSIFIER_VARIANTS, VariantBars


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureClassificationRecipe(Recipe):
    """How a classifier of pictures is trained.

    Args:
        picture: the size that every picture is brought to, which is the network's.
        mean, std: normalisation of each channel, in units of the full range 0 … 1.
        max_shift: each picture is moved by up to so many pixels each way, anew in each epoch.
    """

    picture: ImageSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_shift: int = 0
    variants: tuple[VariantBars, ...] = PICTURE_CLASSIFIER_VARIANTS

    def image_input(self, image: ImageSpec) -> ImageInput:
        """How a picture becomes the network's input, in training as in serving."""
        return ImageInput(
            name="image", height=image.height, width=image.width, mean=self.mean, std=self.std
        )
