# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Command ``snf train``: train a model in this process, with a live view, and register it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import completion
from app.cli.common import (
    INTERRUPTED,
    USAGE,
    Json,
    error_messages,
    fail,
    fail_validation,
    read_settings,
    registry,
    stop_on_signals,
)
from app.cli.live import live_view
from app.cli.published import print_published, published_line

if TYPE_CHECKING:
    from models.datasets import DatasetStore
    from models.training.config import TrainingConfig
    from models.training.recipe import TrainingRecipe
    from worker.settings import Settings

DEFAULT_PRESET = "snf-glow-small"


def train(
    data: Annotated[
        str, typer.Option("--data", "-d", help="Dataset, see `snf datasets`.", autocompletion=completion.datasets)
    ],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            help=f"Architecture, see `snf presets`. [default: {DEFAULT_PRESET}]",
            show_default=False,
            autocompletion=completion.presets,
        ),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            "--architecture", "-a", help="JSON file of an architecture, in place of a preset.", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model. [default: DATA-PRESET]")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps at most.", show_default=False)] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="Minutes from the start to the registered model, evaluation included.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other training parameter as NAME=VALUE; repeatable.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live, fit or not.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder for the checkpoints.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where the steps are computed: cpu or cuda.")] = "cpu",
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Train even if it is expected to need more memory than this machine has, or more than two weeks.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model on a dataset and register it. Ctrl-C writes a checkpoint; the same command continues from it.

    The first fit version of a name becomes live. A version that was hardly trained, that diverged, or whose learned
    inverse is off is kept without becoming live, and the last line says why.

    Under torchrun (torchrun --nproc-per-node N -m app.cli.main train ...) N processes share every batch. On CUDA each
    process has its own GPU. The first process prints.
    """
    from models.naming import NAME_RULE, is_name

    settings = read_settings()
    recipe = _recipe(preset, architecture)
    name = name or f"{data}-{recipe.name}"
    if not is_name(name):
        raise fail(f"--name: expected {NAME_RULE}, got {name!r}", USAGE)
    config = _config(recipe, max_steps, max_minutes, set_ or [])
    given, folder = folder, folder or settings.home / "runs" / name
    with output_of_first_process(), error_messages(), stop_on_signals() as stop, ExitStack() as processes:
        from models.datasets import DatasetStore, load_dataset
        from models.training.distributed import ranks_of_torchrun
        from models.training.loop import Interrupted
        from models.training.run import train as run

        ranks = processes.enter_context(ranks_of_torchrun(device))
        store = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        if device == "cpu" and not force:
            _require_feasible(data, recipe, config, settings, store)
        dataset = load_dataset(data, settings.data_dir, store, config)
        try:
            with live_view(as_json) as observe:
                artifact = run(
                    dataset,
                    recipe,
                    config,
                    folder,
                    observe=observe,
                    should_stop=stop.is_set,
                    threads=settings.train_threads,
                    device=device,
                    ranks=ranks,
                    engine=settings.job_engine_options,
                )
        except Interrupted as error:
            raise fail(f"{error}; the checkpoint is in {folder}", INTERRUPTED) from error
        if not ranks.first:
            return
        version = registry().publish(artifact, name, promote=promote)
        if given is None:
            # With these checkpoints the next training of this name would end at once.
            shutil.rmtree(folder)
    reference, live, failed = f"{version.name}:{version.version}", registry().is_live(version), version.manifest.unfit
    if as_json:
        published = {"model": version.name, "version": version.version, "ref": reference, "live": live}
        unfit = [{"code": check.code, "detail": check.sentence} for check in failed]
        typer.echo(json.dumps({"event": "published", **published, "unfit": unfit}))
    else:
        line = published_line(reference, live=live, unfit=[check.sentence for check in failed])
        print_published(line, unfit=bool(failed))


def _recipe(preset: str | None, architecture: Path | None) -> TrainingRecipe:
    from models.errors import ArchitectureInvalid
    from models.training.architecture_file import parse_architecture, read_architecture_file
    from models.training.presets import PRESETS

    if architecture is None:
        preset = preset or DEFAULT_PRESET
        if preset not in PRESETS:
            raise fail(f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}", USAGE)
        return PRESETS[preset]
    if preset is not None:
        raise fail("expected --preset or --architecture, got both", USAGE)
    try:
        return parse_architecture(read_architecture_file(architecture))
    except ArchitectureInvalid as error:
        raise fail(f"--architecture: {error.detail}", USAGE) from error


def _config(
    recipe: TrainingRecipe, max_steps: int | None, max_minutes: float | None, pairs: list[str]
) -> TrainingConfig:
    from pydantic import ValidationError

    given: dict[str, Any] = {"max_steps": max_steps, "max_minutes": max_minutes}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise fail(f"--set: expected NAME=VALUE, got {pair!r}", USAGE)
        given[key] = value
    try:
        return recipe.config({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise fail_validation(error, "--set") from error


def _require_feasible(
    data: str, recipe: TrainingRecipe, config: TrainingConfig, settings: Settings, store: DatasetStore
) -> None:
    from models.datasets import summarize
    from models.training.config import MAX_MINUTES
    from models.training.cost.estimate import estimate_training
    from worker.runtime.machine import memory_of_this_machine

    summary = summarize(data, settings.data_dir, store, config)
    architecture = recipe.architecture_for(summary.image_shape, config, settings.backbones_dir)
    estimate = estimate_training(architecture, config, summary)
    if estimate.seconds > 60 * MAX_MINUTES:
        raise fail(
            f"the training is expected to take {estimate.seconds / 86_400:,.0f} days on this machine, expected at most "
            f"{MAX_MINUTES // 1440}. Use fewer steps, a smaller preset or --max-minutes, or train anyway with --force",
            USAGE,
        )
    needed = estimate.memory_bytes
    available = memory_of_this_machine()
    if available is not None and needed > available:
        raise fail(
            f"the training is expected to need {needed} bytes of memory; this machine has {available}. "
            "Use a smaller batch_size or preset, or train anyway with --force",
            USAGE,
        )


@contextmanager
def output_of_first_process() -> Iterator[None]:
    """Discard what the ``with`` block prints, unless this is the first of the processes that ``torchrun`` started."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
