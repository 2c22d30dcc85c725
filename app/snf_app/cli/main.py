"""The command line ``snf``. The module of a command is imported when it runs, so that ``snf --help`` is instant."""

from __future__ import annotations

import io
import os
import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from snf_app import package_version
from snf_runtime.errors import FAILED, USAGE
from snf_worker.process_setup import keep_files_private, tune_process

COMMANDS = {
    "up": (
        "processes",
        "Run Redis (unless REDIS_URL is set), the workers and the HTTP service on this machine until Ctrl-C.",
    ),
    "serve": ("processes", "Run only the HTTP service, without Redis and workers, until Ctrl-C."),
    "worker": ("processes", "Run only the worker processes, which take jobs from the Redis server at REDIS_URL."),
    "recommend": (
        "evaluate",
        "Compare three model families (pixels, features, both) on a subset of a dataset, and propose one.",
    ),
    "train": ("train", "Train a model on a dataset, and register it as a new version under its name."),
    "score": (
        "score",
        "Compute the log-likelihood and an anomaly verdict of each image file, or of each image of a dataset.",
    ),
    "bulk": ("bulk_scoring", "Score any number of images into a folder of Parquet files, without a service."),
    "evaluate": (
        "evaluate",
        "Measure how well a model separates normal from anomalous images, compared with trivial baselines.",
    ),
    "limit": (
        "evaluate",
        "Measure detection limits, the sizes from which on a model detects at least 90 % of simulated defects.",
    ),
    "sample": (
        "model_files",
        "Draw random images from a model into a file: a PNG grid, a NumPy array or a zip of single PNG files.",
    ),
    "export": (
        "model_files",
        "Export a model with its calibration in use to a folder, for scoring on machines without PyTorch.",
    ),
    "models": ("models", "List, show, calibrate, alias and delete models. Without a subcommand: list."),
    "datasets": ("datasets", "List, show, upload, refer to and delete datasets. Without a subcommand: list."),
    "jobs": ("jobs", "Submit, list, follow and control the jobs of a running service. Without a subcommand: list."),
    "runs": ("runs", "List, show, compare, export and delete records of training runs. Without a subcommand: list."),
    "presets": (
        "presets",
        "List presets and layer types, and print a preset as an architecture file. Without a subcommand: list.",
    ),
    "backbones": (
        "presets",
        "Add, list and show backbones, the frozen networks of feature models. Without a subcommand: list.",
    ),
    "keys": (
        "keys",
        "Create, list, revoke and rotate API keys. Without a subcommand: list. Services notice within a second.",
    ),
}
"""Module and line of help of each command. The module registers the command with its ``commands``."""


class LazyCommands(UserDict[str, Any]):
    """Commands by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> TyperCommand | TyperGroup:
        try:
            module = import_module(f"snf_app.cli.{COMMANDS[name][0]}")
        except ValueError as error:  # a variable such as SNF_MAX_IMAGE_PIXELS is wrong
            typer.echo(f"snf: {error}", err=True)
            raise typer.Exit(USAGE) from error
        command = typer.main.get_group(module.commands).commands[name]
        assert isinstance(command, TyperCommand | TyperGroup)
        command.help = command.help or COMMANDS[name][1]
        return command


class LazyGroup(TyperGroup):
    """Group whose help needs no module of a command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = LazyCommands(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """Return a command with its line of help alone, for the help and for completion."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, None if listed is None else self.commands[str(name)], rest


cli = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode="markdown",
    name="snf",
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
)


@cli.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version; with --url or SNF_URL also that of the service.")
    ] = False,
    url: Annotated[str | None, typer.Option("--url", help="Address of a service, for --version.", hidden=True)] = None,
) -> None:
    """Score images by their exact density under Self Normalizing Flows."""
    if version:
        typer.echo(f"snf-density {package_version()}")
        if address := url or os.environ.get("SNF_URL"):
            with import_module("snf_app.cli.service").service(address, None) as client:
                typer.echo(f"{address} {client.health().version}")
        raise typer.Exit
    if url is not None:
        typer.echo("snf: --url belongs to a command: snf COMMAND --url ADDRESS, or set SNF_URL", err=True)
        raise typer.Exit(USAGE)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def main() -> None:
    """Run ``snf``; an unexpected error ends with 3, as 1 means an anomaly; a full disk or closed pipe is not one."""
    tune_process()
    keep_files_private()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on stderr: a file name that the terminal's encoding lacks costs no results.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as error:
        if problem := import_module("snf_models.disk").storage_error(error):
            typer.echo(f"snf: {problem.title}: {error}", err=True)
        else:
            sys.excepthook(*sys.exc_info())
        sys.exit(FAILED)


def _run() -> None:
    """Run the command, and write out all that it printed; raise ``OSError`` if that fails."""
    try:
        cli()
    except SystemExit as end:
        # typer ends with code 1 where nobody reads the pipe.
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise
    finally:
        _flush()


def _flush() -> None:
    """Write out the buffered output; Python would do so at its end, where an error has neither message nor code."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # What is still buffered goes nowhere, so that Python does not fail again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


if __name__ == "__main__":
    main()
