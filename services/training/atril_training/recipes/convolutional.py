"""Recipes of the convolutional networks (lecture 3)."""

from atril_models import ImageSpec
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.recipes.recipe import Optimization, at_least

# Background -0.1 and ink 1.175, so that the mean is about 0 and the variance about 1 (LeCun et
# al. 1998, §II-B): (0 - mean) / std and (1 - mean) / std.
_PAPER_STD = 1 / (1.175 + 0.1)
_PAPER_MEAN = 0.1 * _PAPER_STD
_LENET_PICTURE = ImageSpec(channels=1, height=32, width=32)


def _lenet_on_digits(architecture: str) -> PictureClassificationRecipe:
    return PictureClassificationRecipe(
        architecture=architecture,
        dataset="digits",
        optimization=Optimization(
            epochs=30, batch_size=32, peak_learning_rate=0.004, weight_decay=0.01
        ),
        picture=_LENET_PICTURE,
        max_shift=2,
        mean=(_PAPER_MEAN,),
        std=(_PAPER_STD,),
        bars=(
            at_least("test_accuracy", 0.97, baseline="test: nearest class mean"),
            at_least("tail_accuracy", 0.93, baseline="tail: nearest class mean"),
        ),
    )


def _lenet_on_mnist(architecture: str) -> PictureClassificationRecipe:
    return PictureClassificationRecipe(
        architecture=architecture,
        dataset="mnist",
        optimization=Optimization(
            epochs=20, batch_size=128, peak_learning_rate=0.004, weight_decay=0.01
        ),
        picture=_LENET_PICTURE,
        max_shift=2,
        mean=(_PAPER_MEAN,),
        std=(_PAPER_STD,),
        bars=(at_least("test_accuracy", 0.9905, baseline="test: nearest class mean"),),
    )


_LENETS = ("lenet5", "lenet5-modern")

RECIPES = (*map(_lenet_on_digits, _LENETS), *map(_lenet_on_mnist, _LENETS))
