"""The commands that training adds to `atril`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from atril_common.errors import AtrilError, NotFoundError
from atril_common.repository import list_versions
from atril_training.datasets import DATASETS, FileSource, file_source
from atril_training.pipeline import PublishedModel, train_and_publish
from atril_training.progress import training_progress
from atril_training.recipes import DEFAULT_RECIPE, QualityBar, Recipe, find_recipe

DEFAULT_REPOSITORY = Path("model_repository")


def train(  # noqa: PLR0913 - typer reads the options off the signature
    architecture: Annotated[str, typer.Argument(help="Architecture to train, such as lenet5.")],
    dataset: Annotated[
        str, typer.Option(help=f"Data set to train on: {' or '.join(DATASETS)}.")
    ] = DEFAULT_RECIPE.dataset,
    repository: Annotated[
        Path,
        typer.Option(envvar="ATRIL_MODEL_REPOSITORY", help="Model repository to publish into."),
    ] = DEFAULT_REPOSITORY,
    name: Annotated[
        str | None, typer.Option(help="Model name to publish under; the architecture's if not set.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's seed.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's number of epochs.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(max=1.0, help="Raise the recipe's bar of test accuracy.")
    ] = None,
    if_missing: Annotated[
        bool, typer.Option(help="Do nothing if the repository has a version of the model.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="ATRIL_DATA_DIR",
            help="Folder with <data set>/<file>; data is downloaded if not set.",
        ),
    ] = None,
) -> None:
    """Train an architecture, prove its export, and publish it as the next version of a model."""
    recipe = _adapt(_recipe(architecture, dataset), seed, epochs, min_accuracy)
    model_name = name or architecture
    if if_missing and (versions := list_versions(repository, model_name)):
        typer.echo(f"{repository} has {model_name} version {versions[-1]}: nothing to do")
        return
    try:
        published = _train_with_progress(
            recipe,
            repository=repository,
            model_name=model_name,
            source=file_source(data_dir),
        )
    except AtrilError as err:
        typer.echo(f"atril train: {err}", err=True)
        raise typer.Exit(1) from err
    typer.echo(_summary(published))


def _recipe(architecture: str, dataset: str) -> Recipe:
    try:
        return find_recipe(architecture, dataset)
    except NotFoundError as err:
        raise typer.BadParameter(str(err)) from err


def _adapt(
    recipe: Recipe, seed: int | None, epochs: int | None, min_accuracy: float | None
) -> Recipe:
    bar = recipe.bar
    if min_accuracy is not None:
        if min_accuracy < bar.minimum:
            raise typer.BadParameter(
                f"--min-accuracy {min_accuracy:g} is below the recipe's bar of {bar.minimum:g}, "
                f"which can only be raised"
            )
        bar = QualityBar(bar.metric, min_accuracy)
    return replace(
        recipe,
        seed=recipe.seed if seed is None else seed,
        epochs=recipe.epochs if epochs is None else epochs,
        bar=bar,
    )


def _train_with_progress(
    recipe: Recipe, *, repository: Path, model_name: str, source: FileSource
) -> PublishedModel:
    title = f"{recipe.architecture} on {recipe.dataset}"
    with training_progress(title, recipe.epochs, Console(stderr=True)) as reporter:
        return train_and_publish(
            recipe,
            repository=repository,
            model_name=model_name,
            source=source,
            reporter=reporter,
        )


def _summary(published: PublishedModel) -> str:
    run, bar = published.run, published.recipe.bar
    lines = [
        f"trained    {published.recipe.architecture} on {published.recipe.dataset}, seed "
        f"{published.recipe.seed}, in {run.duration_s:.1f} s; best epoch {run.best_epoch} of "
        f"{len(run.epochs)}",
        f"accuracy   {run.test.accuracy:.4f} on the test split ({run.test.errors} errors in "
        f"{run.test.examples}); the bar is {bar.minimum:.4f}",
    ]
    lines += [
        f"parity     batch {batch.batch_size}: logits within {batch.logits_max_abs:.1e}, "
        f"probabilities within {batch.probabilities_max_abs:.1e}, argmax agreement "
        f"{batch.argmax_agreement:.4f} over {batch.examples} pictures"
        for batch in published.parity.batches
    ]
    lines.append(f"published  {published.path}")
    return "\n".join(lines)
