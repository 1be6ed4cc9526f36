"""From a recipe to a course: each kind of recipe has one kind of course.

A family's kinds are one line each in `_COURSES`.
"""

from collections.abc import Callable
from typing import Any

from atril_training.datasets import FileSource
from atril_training.recipes.autoencoding import (
    DenoisingRecipe,
    PhotographRecipe,
    PrincipalSubspaceRecipe,
    ReconstructionRecipe,
    VariationalRecipe,
)
from atril_training.recipes.features import (
    FeatureClassificationRecipe,
    FeatureRegressionRecipe,
    LeastSquaresRecipe,
)
from atril_training.recipes.pictures import PictureClassificationRecipe
from atril_training.recipes.recipe import Recipe
from atril_training.recipes.sequential import (
    ForecastRecipe,
    SequenceClassificationRecipe,
    TextRecipe,
)
from atril_training.recipes.translation import TranslationRecipe
from atril_training.tasks.characters import TextCourse
from atril_training.tasks.course import Course, DataFacts
from atril_training.tasks.denoising import DenoisingCourse
from atril_training.tasks.features import (
    FeatureClassificationCourse,
    FeatureRegressionCourse,
    LeastSquaresCourse,
)
from atril_training.tasks.forecast import ForecastCourse
from atril_training.tasks.photographs import PhotographCourse
from atril_training.tasks.pictures import PictureClassificationCourse
from atril_training.tasks.reconstruction import PrincipalSubspaceCourse, ReconstructionCourse
from atril_training.tasks.sequences import SequenceClassificationCourse
from atril_training.tasks.translation import TranslationCourse
from atril_training.tasks.variational import VariationalCourse

_COURSES: dict[type[Recipe], Callable[[Any, FileSource], Course]] = {
    PictureClassificationRecipe: PictureClassificationCourse.prepare,
    FeatureClassificationRecipe: FeatureClassificationCourse.prepare,
    FeatureRegressionRecipe: FeatureRegressionCourse.prepare,
    LeastSquaresRecipe: LeastSquaresCourse.prepare,
    ReconstructionRecipe: ReconstructionCourse.prepare,
    PrincipalSubspaceRecipe: PrincipalSubspaceCourse.prepare,
    DenoisingRecipe: DenoisingCourse.prepare,
    VariationalRecipe: VariationalCourse.prepare,
    PhotographRecipe: PhotographCourse.prepare,
    SequenceClassificationRecipe: SequenceClassificationCourse.prepare,
    ForecastRecipe: ForecastCourse.prepare,
    TextRecipe: TextCourse.prepare,
    TranslationRecipe: TranslationCourse.prepare,
}


def prepare(recipe: Recipe, source: FileSource) -> Course:
    """Load a recipe's data and bind it to the recipe.

    Raises:
        DataUnavailableError: a file of the data is not there.
        CorruptDataError: a file has another content.
    """
    return _COURSES[type(recipe)](recipe, source)


__all__ = ["Course", "DataFacts", "prepare"]
