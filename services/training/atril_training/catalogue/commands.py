"""`atril catalogue`: list, show, build."""

import os
from typing import Annotated

import typer
from rich.console import Console

from atril_common.errors import AtrilError
from atril_models import CATALOGUE, UnknownArchitectureError
from atril_training.catalogue.build import BuiltModel, build_catalogue
from atril_training.catalogue.cards import latest_card, list_cards
from atril_training.catalogue.describe import describe
from atril_training.catalogue.report import Published
from atril_training.catalogue.report import report as markdown_report
from atril_training.catalogue.tables import build_table, description, list_table, metric_text
from atril_training.commands import DEFAULT_REPOSITORY, DataDir, Repository
from atril_training.recipes import find_recipe

_WIDTH_OF_A_LOG = 160

app = typer.Typer(
    help="The architectures of the lectures: listed, described, built.",
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


@app.callback()
def main(context: typer.Context) -> None:
    """List the architectures."""
    if context.invoked_subcommand is None:
        _console().print(list_table())


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Architecture, such as lenet5.")],
    small: Annotated[
        bool, typer.Option(help="The form that the default recipe trains, not the published one.")
    ] = False,
    repository: Repository = DEFAULT_REPOSITORY,
) -> None:
    """Describe an architecture: section, formula, layers, recipes and its latest card."""
    try:
        options = find_recipe(name).options if small else None
        text = description(describe(name, options), latest_card(repository, name))
    except (AtrilError, UnknownArchitectureError) as err:
        typer.echo(f"atril catalogue show: {err}", err=True)
        raise typer.Exit(1) from err
    _console().print(text)


@app.command()
def build(
    names: Annotated[
        list[str] | None, typer.Argument(help="Architectures to build; all if none is named.")
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings side by side; one for each processor if not set."),
    ] = None,
    if_missing: Annotated[
        bool, typer.Option(help="Leave out those that the repository has a version of.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Train, export, prove and publish architectures by their default recipes."""
    chosen = _chosen(names or list(CATALOGUE))
    if if_missing:
        chosen = [name for name in chosen if latest_card(repository, name) is None]
    built: list[BuiltModel] = []
    count = jobs or len(os.sched_getaffinity(0))
    for one in build_catalogue(chosen, repository, data_dir=data_dir, jobs=count):
        built.append(one)
        typer.echo(f"{len(built):>3}/{len(chosen)}  {_line(one)}", err=True)
    _console().print(build_table(built))
    if any(one.error for one in built):
        raise typer.Exit(1)


@app.command()
def report(
    names: Annotated[
        list[str] | None, typer.Argument(help="Published models; all with a card if none is named.")
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
) -> None:
    """Print the figures in the cards of published models, as a page of Markdown."""
    try:
        cards = list_cards(repository)
    except AtrilError as err:
        typer.echo(f"atril catalogue report: {err}", err=True)
        raise typer.Exit(1) from err
    for name in names or []:
        if name not in cards:
            typer.echo(f"atril catalogue report: {repository} has no card of {name}", err=True)
            raise typer.Exit(1)
    typer.echo(markdown_report([Published(name, *cards[name]) for name in names or cards]))


def _chosen(names: list[str]) -> list[str]:
    for name in names:
        try:
            CATALOGUE[name]
        except UnknownArchitectureError as err:
            raise typer.BadParameter(str(err)) from err
    return list(dict.fromkeys(names))


def _line(one: BuiltModel) -> str:
    outcome = one.error or "; ".join(map(metric_text, one.metrics))
    return f"{one.architecture}: {outcome}, {one.duration_s:.0f} s"


def _console() -> Console:
    """Standard output; a table in a file or a pipe is not folded to a terminal's width."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_LOG)
