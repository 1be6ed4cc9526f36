"""The `atril` command."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atril_cli.example import classify_curl
from atril_common.errors import AtrilError
from atril_common.repository import list_models

if TYPE_CHECKING:
    from atril_common.serving import Ports

COMMANDS = "atril.commands"
"""Entry point group in which services offer commands."""

DEFAULT_MODEL = "lenet5"
DEFAULT_REPOSITORY = Path("model_repository")

Repository = Annotated[
    Path,
    typer.Option(
        envvar="ATRIL_MODEL_REPOSITORY", help="Model repository to serve.", file_okay=False
    ),
]


def serve(repository: Repository = DEFAULT_REPOSITORY) -> None:
    """Serve a model repository: task API and Open Inference Protocol, in one process."""
    _serve(repository)


def run(repository: Repository = DEFAULT_REPOSITORY) -> None:
    """Train lenet5 if the repository is empty, then serve it and say how to call it."""
    if not list_models(repository):
        typer.echo(f"No model in {repository}: training {DEFAULT_MODEL}.")
        command = [sys.executable, "-m", "atril_cli", "train", DEFAULT_MODEL]
        # A process of its own: the server's should not carry torch for the rest of its life.
        trained = subprocess.run([*command, "--repository", str(repository)], check=False)
        if trained.returncode:
            raise typer.Exit(trained.returncode)
    _serve(repository)


def _serve(repository: Path) -> None:
    # Imported here so that `atril train` runs where only training is installed.
    from atril_cli.serve import serve_embedded

    try:
        serve_embedded(repository, lambda ports: _print_usage(repository, ports))
    except AtrilError as err:
        typer.echo(f"atril: {err}", err=True)
        raise typer.Exit(1) from err


def _print_usage(repository: Path, ports: "Ports") -> None:
    host = "localhost" if ports.host in ("127.0.0.1", "0.0.0.0", "::1", "::") else ports.host
    base = f"http://{host}:{ports.http}"
    models = list_models(repository)
    lines = [
        f"Serving {', '.join(models) or 'no model'} from {repository}",
        "",
        f"  Task API      {base}/v1   pages: {base}/docs",
        f"  OIP, HTTP     {base}/v2",
        f"  OIP, gRPC     {host}:{ports.grpc}",
        f"  Metrics       http://{host}:{ports.metrics}/metrics",
    ]
    if DEFAULT_MODEL in models:
        lines += ["", "Try it:", "", classify_curl(base, DEFAULT_MODEL)]
    lines += ["", "Ctrl-C stops."]
    typer.echo("\n".join(lines))


class _Group(TyperGroup):
    """Our own commands and those of installed services, imported when they are asked for.

    `atril serve` must not import torch because `atril train` needs it.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return [*super().list_commands(ctx), *entry_points(group=COMMANDS).names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name, or None."""
        entries = entry_points(group=COMMANDS, name=cmd_name)
        if not entries:
            return super().get_command(ctx, cmd_name)
        command = _load(next(iter(entries)))
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(name=cmd_name)(command)
            command = single
        return typer.main.get_command(command)


def create_cli() -> typer.Typer:
    """The command line."""
    app = typer.Typer(
        name="atril",
        cls=_Group,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.command()(serve)
    app.command()(run)
    return app


def _load(entry: EntryPoint) -> Callable[..., None] | typer.Typer:
    """A service's command or group of commands, or one that says which package it lacks."""
    try:
        command: Callable[..., None] | typer.Typer = entry.load()
    except ModuleNotFoundError as err:
        missing = err.name
    else:
        return command

    def unavailable() -> None:
        typer.echo(
            f"atril {entry.name}: package '{missing}' is not installed; install atril[training]",
            err=True,
        )
        raise typer.Exit(1)

    unavailable.__doc__ = f"(not available: package '{missing}' is not installed)"
    return unavailable


def main() -> None:
    """Run the command line."""
    create_cli()()


if __name__ == "__main__":
    main()
