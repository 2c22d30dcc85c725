# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    INTERRUPTED,
    Json,
    Key,
    Url,
    error_messages,
    fail,
    read_settings,
    registry,
    stop_on_signals,
    url_option,
)
from snf_app.cli.live import live_view
from snf_app.cli.new_version import print_published, published_line
from snf_app.cli.train_parameters import given_parameters, read_config
from snf_app.cli.train_service import train_on_service
from snf_runtime.errors import USAGE
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_models.datasets import Dataset
    from snf_models.pipeline.presets import TrainingRecipe
    from snf_models.registry.registry import ModelVersion
    from snf_models.training.config import TrainingConfig
    from snf_models.training.distributed import Ranks
    from snf_worker.settings import Settings

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
        list[str] | None,
        typer.Option(
            "--set", help="Any training parameter as NAME=VALUE, see below; repeatable.", metavar="NAME=VALUE"
        ),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live, fit or not.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder for the checkpoints.", show_default=False),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew: move an earlier run out of the folder of the checkpoints."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Where the steps are computed: cpu or cuda. [default: cpu]", show_default=False),
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
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
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
    from snf_client.schemas.base import NAME_RULE
    from snf_models.naming import is_name

    recipe, document = _recipe(preset, architecture)
    name = name or f"{data}-{recipe.name}"
    if not is_name(name):
        raise fail(f"--name: expected {NAME_RULE}, got {name!r}", USAGE)
    parameters = given_parameters(max_steps, max_minutes, set_ or [])
    config = read_config(recipe, parameters)
    if url:
        here = {"--folder": folder, "--restart": restart}
        if options := [option for option, value in here.items() if value]:
            raise fail(f"{', '.join(options)}: for a training in this process, leave out with --url", USAGE)
        chosen: dict[str, Any] = {"preset": recipe.name} if document is None else {"architecture": document}
        # As they were read, so that the service gets numbers and not their texts.
        sent = config.model_dump(mode="json", include=set(parameters))
        chosen |= {} if device is None else {"device": device}
        train_on_service(
            data, name, chosen | {"parameters": sent, "promote": promote, "force": force}, url, key, detach, as_json
        )
        return
    if detach or force:
        raise fail(f"--{'detach' if detach else 'force'}: for a job of a service, needs --url", USAGE)
    settings, device = read_settings(writes=True), device or "cpu"
    given, folder = folder, folder or settings.home / "runs" / name
    with output_of_first_process(), error_messages(), stop_on_signals() as stop, ExitStack() as processes:
        from snf_models.errors import FolderTaken, Interrupted
        from snf_models.pipeline.run import train as run
        from snf_models.training.distributed import ranks_of_torchrun
        from snf_worker.jobs.record import new_job
        from snf_worker.jobs.runs import recorded_run

        ranks = processes.enter_context(ranks_of_torchrun(device))
        config = _config_of_run(folder, recipe, parameters, ranks, restart=restart)
        dataset = _load(data, config, settings)
        job = new_job(
            origin="command",
            model=name,
            dataset=data,
            preset=recipe.name,
            parameters=config.model_dump(mode="json", include=set(recipe.parameters)),
            device=device,
        )
        try:
            with recorded_run(job, settings, folder, write=ranks.first) as record:
                with nullcontext() if given is None else user_umask(), live_view(as_json) as show:
                    artifact = run(
                        dataset,
                        recipe,
                        config,
                        folder,
                        observe=record.passing_on(show),
                        should_stop=stop.is_set,
                        threads=settings.train_threads,
                        device=device,
                        ranks=ranks,
                        engine=settings.job_engine_options,
                    )
                if not ranks.first:
                    return
                version = registry().publish(artifact, name, promote=promote)
                live = registry().live_version(name)
                if problem := record.published(version, live=live == version.version):
                    typer.echo(f"snf: {problem}", err=True)
        except Interrupted as error:
            raise fail(f"{error}; the checkpoint is in {folder}", INTERRUPTED) from error
        except FolderTaken as error:
            advice = "Give the same settings to continue it, --restart to begin anew, or another --folder"
            raise fail(f"{error.detail}. {advice}", USAGE) from error
        if given is None:
            # With these checkpoints the next training of this name would end at once.
            shutil.rmtree(folder)
    print_version(version, live, as_json)


def print_version(version: ModelVersion, live: int | None, as_json: bool) -> None:
    """Print a new version and the ``live`` one, as a line of text or an event ``published``."""
    reference, failed = f"{version.name}:{version.version}", version.manifest.unfit
    smallest = version.manifest.calibration.smallest_p
    if as_json:
        published = {"model": version.name, "version": version.version, "ref": reference}
        published |= {"live": live == version.version, "live_version": live, "smallest_p": smallest}
        unfit = [{"code": check.code, "detail": check.sentence} for check in failed]
        typer.echo(json.dumps({"event": "published", **published, "unfit": unfit}))
    else:
        reasons = [check.sentence for check in failed]
        line = published_line(reference, live=live, unfit=reasons, options=url_option(None), smallest_p=smallest)
        print_published(line, unfit=bool(failed))


def _recipe(preset: str | None, architecture: Path | None) -> tuple[TrainingRecipe, dict[str, Any] | None]:
    from snf_models.errors import ArchitectureInvalid, PresetNotFound
    from snf_models.pipeline.architecture_file import find_recipe, read_architecture_file

    if preset is not None and architecture is not None:
        raise fail("expected --preset or --architecture, got both", USAGE)
    try:
        document = None if architecture is None else read_architecture_file(architecture)
        return find_recipe(preset or DEFAULT_PRESET, document), document
    except PresetNotFound as error:
        raise fail(f"--preset: {error.detail}", USAGE) from error
    except ArchitectureInvalid as error:
        raise fail(f"--architecture: {error.detail}", USAGE) from error


def _config_of_run(
    folder: Path, recipe: TrainingRecipe, parameters: dict[str, Any], ranks: Ranks, *, restart: bool
) -> TrainingConfig:
    """Return the settings of a run that may have begun in a folder, unless it is to begin anew."""
    from snf_models.pipeline.run import begun_config

    if restart:
        _set_aside(folder, ranks)
    return begun_config(folder, recipe, parameters)


def _set_aside(folder: Path, ranks: Ranks) -> None:
    """Rename the folder of an earlier run, if there is one, to the first free name with ``~`` and a number."""
    if ranks.first and folder.exists():
        folder = folder.absolute()
        number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}~{n}").exists())
        aside = folder.rename(folder.with_name(f"{folder.name}~{number}"))
        typer.echo(f"the earlier run is now in {aside}", err=True)
    ranks.value_of_first(0.0)  # the others wait


def _load(data: str, config: TrainingConfig, settings: Settings) -> Dataset:
    from snf_models.datasets import DatasetStore, load_dataset

    store = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
    return load_dataset(data, settings.data_dir, store, config)


@contextmanager
def output_of_first_process() -> Iterator[None]:
    """Discard stdout and stderr in every ``torchrun`` process but the first."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
