"""The commands that training adds to `atril`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from atril_common.errors import AtrilError, NotFoundError
from atril_common.repository import list_versions
from atril_training.card import Proof
from atril_training.catalogue.cards import latest_card
from atril_training.datasets import DATASETS, FileSource, file_source
from atril_training.pipeline import PublishedModel, train_and_publish
from atril_training.progress import training_progress
from atril_training.recipes import QualityBar, Recipe, find_recipe
from atril_training.recipes.recipe import figure_text
from atril_training.recipes.variants import Precision
from atril_training.variants.build import PublishedVariant, check_variants, publish_variants

DEFAULT_REPOSITORY = Path("model_repository")

Repository = Annotated[
    Path,
    typer.Option(envvar="ATRIL_MODEL_REPOSITORY", help="Model repository to publish into."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="ATRIL_DATA_DIR",
        help="Folder with <data set>/<file>; data is downloaded if not set.",
    ),
]


def train(  # noqa: PLR0913 - typer reads the options off the signature
    architecture: Annotated[str, typer.Argument(help="Architecture to train, such as lenet5.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"Data set to train on: {', '.join(DATASETS)}; the architecture's default, which "
            f"needs no download, if not set."
        ),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    name: Annotated[
        str | None, typer.Option(help="Model name to publish under; the architecture's if not set.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's seed.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's number of epochs.")
    ] = None,
    bar: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="Tighten one of the recipe's quality bars."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda or cuda:<index>.")] = "cpu",
    if_missing: Annotated[
        bool, typer.Option(help="Do nothing if the repository has a version of the model.")
    ] = False,
    variant: Annotated[
        list[Precision] | None,
        typer.Option(help="Publish the model in this precision besides; may be repeated."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Train an architecture, prove its export, and publish it as the next version of a model."""
    recipe = _adapt(_recipe(architecture, dataset), seed, epochs, bar or [])
    model_name = name or architecture
    if if_missing and (version := _version_there(repository, model_name)):
        typer.echo(f"{repository} has {model_name} version {version}: nothing to do")
        return
    _check_device(device)
    try:
        source = file_source(data_dir)
        check_variants(recipe, variant or ())
        published = _train_with_progress(recipe, repository, model_name, source, device)
        typer.echo(summary(published))
        for made in publish_variants(
            model_name, variant or (), repository=repository, source=source
        ):
            typer.echo(variant_summary(made))
    except AtrilError as err:
        typer.echo(f"atril train: {err}", err=True)
        raise typer.Exit(1) from err


def variants(
    name: Annotated[str, typer.Argument(help="Model of the repository, in FP32, such as lenet5.")],
    variant: Annotated[
        list[Precision] | None,
        typer.Option(help="Precision to publish it in; may be repeated; all if not set."),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    data_dir: DataDir = None,
) -> None:
    """Publish the newest version of a model in FP16 and INT8, judged on its test split."""
    try:
        for made in publish_variants(
            name, variant or tuple(Precision), repository=repository, source=file_source(data_dir)
        ):
            typer.echo(variant_summary(made))
    except AtrilError as err:
        typer.echo(f"atril variants: {err}", err=True)
        raise typer.Exit(1) from err


def _recipe(architecture: str, dataset: str | None) -> Recipe:
    try:
        return find_recipe(architecture, dataset)
    except NotFoundError as err:
        raise typer.BadParameter(str(err)) from err


def _version_there(repository: Path, model_name: str) -> int | None:
    """The newest version, of the model itself or of the parts that it is published in."""
    if versions := list_versions(repository, model_name):
        return versions[-1]
    found = latest_card(repository, model_name)
    return None if found is None else found[0]


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0]
        raise typer.BadParameter(f"--device {device} cannot be used: {reason}") from err


def _adapt(recipe: Recipe, seed: int | None, epochs: int | None, bars: list[str]) -> Recipe:
    optimization = recipe.optimization
    if epochs is not None:
        optimization = replace(optimization, epochs=epochs)
    tightened = {bar.metric: bar for bar in recipe.bars}
    for text in bars:
        bar = _tighten(tightened, text)
        tightened[bar.metric] = bar
    return replace(
        recipe,
        seed=recipe.seed if seed is None else seed,
        optimization=optimization,
        bars=tuple(tightened.values()),
    )


def _tighten(bars: dict[str, QualityBar], text: str) -> QualityBar:
    metric, _, value = text.partition("=")
    if metric not in bars:
        raise typer.BadParameter(
            f"--bar {text}: expected METRIC=VALUE with METRIC one of {', '.join(bars)}"
        )
    try:
        bound = float(value)
    except ValueError as err:
        raise typer.BadParameter(f"--bar {text}: '{value}' is not a number") from err
    if not bars[metric].is_met(bound):
        raise typer.BadParameter(
            f"--bar {text} is looser than the recipe's {bars[metric].bound:g}, which can only be "
            f"tightened"
        )
    return replace(bars[metric], bound=bound)


def _train_with_progress(
    recipe: Recipe, repository: Path, model_name: str, source: FileSource, device: str
) -> PublishedModel:
    with training_progress(recipe.title, Console(stderr=True)) as reporter:
        return train_and_publish(
            recipe,
            repository=repository,
            model_name=model_name,
            source=source,
            reporter=reporter,
            device=device,
        )


def summary(published: PublishedModel) -> str:
    """What came of a training, in a few lines for people."""
    recipe, training = published.recipe, published.training
    stages = ", ".join(
        f"{fit.stage + ': ' if fit.stage else ''}best epoch {fit.best_epoch} of {len(fit.epochs)}"
        for fit in training.fits
    )
    lines = [
        f"trained    {recipe.title}, seed {recipe.seed}, in {training.duration_s:.1f} s; {stages}"
    ]
    lines += [
        f"quality    {metric.name} {figure_text(metric.value)} on the test split; the bar is "
        f"{figure_text(metric.bar.bound)}, {metric.bar.baseline} reaches "
        f"{figure_text(metric.baseline_value)}"
        for metric in published.judgement.metrics(recipe)
    ]
    graphs = len(published.proofs)
    lines += _proven("PyTorch and ONNX Runtime", published.paths[:graphs], published.proofs)
    wholes = published.paths[graphs:]
    lines += [f"published  {path}, the parts above as one model" for path in wholes]
    return "\n".join(lines)


def variant_summary(published: PublishedVariant) -> str:
    """What came of a variant, in a few lines for people."""
    lines = [
        f"quality    {metric.name} {figure_text(metric.value)} in {published.precision}, "
        f"{figure_text(metric.baseline_value)} in FP32; the bar is {figure_text(metric.bar.bound)}"
        for metric in published.metrics
    ]
    lines += _proven(f"FP32 and {published.precision}", published.paths, published.proofs)
    return "\n".join(lines)


def _proven(compared: str, paths: Sequence[Path], proofs: Sequence[Proof]) -> Iterator[str]:
    """What was measured of each published graph."""
    for path, proof in zip(paths, proofs, strict=True):
        yield (
            f"parity     {path.parent.name}: {compared} within "
            f"{proof.parity.max_abs:.1e} in {len(proof.parity.cases)} cases"
        )
        yield f"published  {path}, {proof.size_bytes / 1e6:.2f} MB, {proof.latency.p50_ms:.2f} ms"
