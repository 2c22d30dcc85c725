"""Command ``snf train``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from typer.core import TyperCommand

from snf_app.cli import completion
from snf_app.cli.common import INTERRUPTED, Promote, fail
from snf_app.cli.job_tables import print_outcome
from snf_app.cli.jobs import split_pairs
from snf_app.cli.live import live_view
from snf_app.cli.service import Session, command
from snf_client.schemas.base import NAME_RULE
from snf_models.errors import ArchitectureInvalid, PresetNotFound
from snf_models.naming import is_name
from snf_models.pipeline.architecture_file import find_recipe, read_architecture_file
from snf_models.pipeline.presets import TrainingRecipe, parameter_groups, preset_defaults, settings_error
from snf_runtime.errors import USAGE

DEFAULT_PRESET = "snf-glow-small"
commands = typer.Typer(rich_markup_mode="markdown")

NAME_COLUMNS = 24


class TrainCommand(TyperCommand):
    """Command whose help lists all training parameters and the defaults that presets change."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        console = Console(highlight=False, markup=False)
        tables = {f"Parameters of --set: {title}": _table() for title in parameter_groups()}
        for table, parameters in zip(tables.values(), parameter_groups().values(), strict=True):
            for parameter in parameters:
                table.add_row(parameter.name, f"{parameter.meaning} [{parameter.values}; default: {parameter.default}]")
        tables["Defaults of presets"] = presets = _table()
        for names, changed in preset_defaults():
            presets.add_row("\n".join(names), ", ".join(f"{name}={value}" for name, value in changed.items()))
        for title, table in tables.items():
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=NAME_COLUMNS, style="cyan", overflow="fold")
    table.add_column()
    return table


@command(commands, cls=TrainCommand)
def train(
    session: Session,
    data: Annotated[
        str, typer.Option("--data", "-d", help="Dataset, see `snf datasets`.", autocompletion=completion.datasets)
    ],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            help=f"Architecture, see `snf presets`. [default: {DEFAULT_PRESET}]",
            autocompletion=completion.presets,
        ),
    ] = None,
    architecture: Annotated[
        Path | None, typer.Option("--architecture", "-a", help="JSON file of an architecture, in place of a preset.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. [default: DATA-PRESET]")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps at most.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Minutes from the start to the registered model, evaluation included.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any training parameter as NAME=VALUE, see below; repeatable.", metavar="NAME=VALUE"
        ),
    ] = None,
    promote: Promote = False,
    folder: Annotated[Path | None, typer.Option(help="Folder for the checkpoints.")] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew: move an earlier run out of the folder of the checkpoints."),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Where the steps are computed: cpu or cuda. [default: cpu]")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --url: train even if an earlier job needed more memory than workers have, or for two weeks.",
        ),
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="With --url: print the id of the job and return at once.")
    ] = False,
) -> None:
    """Train a model on a dataset, and register it as a new version under its name.

    Ctrl-C writes a checkpoint; the same command continues from it.

    The first fit version of a name becomes live. A version that was hardly trained, that diverged, or whose learned
    inverse is off is kept without becoming live, and the last line says why.

    With --url or SNF_URL the service trains, as a job, on its dataset of that name. The command shows the same view;
    Ctrl-C leaves the job running. --url "" trains in this process whatever SNF_URL is.

    Under torchrun (torchrun --nproc-per-node N -m snf_app.cli.main train ...) N processes share every batch. On CUDA
    each process has its own GPU. The first process prints.
    """
    recipe, document = _recipe(preset, architecture)
    name = name or f"{data}-{recipe.name}"
    if not is_name(name):
        raise fail(f"--name: expected {NAME_RULE}, got {name!r}", USAGE)
    given = {"max_steps": max_steps, "max_minutes": max_minutes, **split_pairs(set_ or [], "--set")}
    parameters = {parameter: value for parameter, value in given.items() if value is not None}
    try:
        config = recipe.config(parameters)
    except ValidationError as error:
        raise fail(f"--set: {settings_error(error, recipe)}", USAGE) from error
    here, there = {"--folder": folder, "--restart": restart}, {"--detach": detach, "--force": force}
    if refused := [option for option, value in (here if session.url else there).items() if value]:
        reason = "training in this process, leave out with --url" if session.url else "job of a service, needs --url"
        raise fail(f"{', '.join(refused)}: for a {reason}", USAGE)
    if session.url:
        chosen: dict[str, Any] = {"preset": recipe.name} if document is None else {"architecture": document}
        # As they were read, so that the service gets numbers and not their texts.
        chosen["parameters"] = config.model_dump(mode="json", include=set(parameters))
        chosen |= {} if device is None else {"device": device}
        _train_on_service(session, data, name, chosen | {"promote": promote, "force": force}, detach=detach)
    else:
        from snf_app.cli.local_work import train_here  # noqa: PLC0415 - PyTorch takes seconds

        train_here(session, data, name, recipe, parameters, folder, device or "cpu", promote=promote, restart=restart)


def _train_on_service(session: Session, data: str, name: str, options: dict[str, Any], *, detach: bool) -> None:
    """Queue a training and show it, unless ``detach``; Ctrl-C exits with 130 and leaves the job, 3 if it failed."""
    if "RANK" in os.environ:
        raise fail("expected no --url and no SNF_URL under torchrun, whose processes train by themselves", USAGE)
    job = session.client.jobs.train(data, name, **options)
    hint = "" if detach else "; Ctrl-C stops watching, not the job"
    typer.echo(json.dumps({"event": "submitted", "job": job.id}) if session.as_json else f"job {job.id}{hint}")
    if detach:
        return
    try:
        with live_view(session.as_json) as observe:
            job = session.follow(job.id, observe)
    except KeyboardInterrupt:
        watch, pause, cancel = (f"snf jobs {verb} {job.id}{session.option}" for verb in ("watch", "pause", "cancel"))
        message = f"the job goes on. To follow it: {watch}. To stop it: {pause}, or {cancel}"
        raise fail(message, INTERRUPTED) from None
    if not session.as_json:
        print_outcome(job.result or {}, session.option)


def _recipe(preset: str | None, architecture: Path | None) -> tuple[TrainingRecipe, dict[str, Any] | None]:
    if preset is not None and architecture is not None:
        raise fail("expected --preset or --architecture, got both", USAGE)
    try:
        document = None if architecture is None else read_architecture_file(architecture)
        return find_recipe(preset or DEFAULT_PRESET, document), document
    except PresetNotFound as error:
        raise fail(f"--preset: {error.detail}", USAGE) from error
    except ArchitectureInvalid as error:
        raise fail(f"--architecture: {error.detail}", USAGE) from error
