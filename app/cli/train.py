# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf train`: trains a model in this process, with a live view, and registers it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import completion
from app.cli.common import USAGE, Json, errors_for_people, fail, settings
from app.cli.live import live_view

if TYPE_CHECKING:
    from models.datasets import DatasetStore
    from models.training.config import TrainingConfig

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells count."""


def train(
    data: Annotated[
        str, typer.Option("--data", "-d", help="Dataset, see `snf datasets`.", autocompletion=completion.datasets)
    ],
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="Architecture.", autocompletion=completion.presets)
    ] = "snf-glow-small",
    name: Annotated[str | None, typer.Option("--name", help="Name in the registry. [default: DATA-PRESET]")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default=False)] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Wall-clock budget.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other parameter, NAME=VALUE; repeatable.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version the live one.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder of the checkpoints.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if it is expected to need more memory than this machine has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model and register it. Ctrl-C writes a checkpoint, and the same command goes on from it.

    Under torchrun (--nproc-per-node N -m app.cli.main train) the processes share every batch; the first one reports.
    """
    from models.registry.registry import NAME, Registry
    from models.training.presets import PRESETS

    found = settings()
    name = name or f"{data}-{preset}"
    if preset not in PRESETS:
        raise fail(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}", USAGE)
    if NAME.fullmatch(name) is None:
        raise fail(f"{name!r} is not a name: {NAME.pattern}", USAGE)
    config = _config(preset, max_steps, max_minutes, set_ or [])
    given, folder = folder, folder or found.home / "runs" / name
    with speaking_first(), errors_for_people(), stop_on_signals() as stop, ExitStack() as processes:
        from models.datasets import DatasetStore, load_dataset
        from models.training.distributed import ranks_of_torchrun
        from models.training.loop import Interrupted
        from models.training.run import train as run

        ranks = processes.enter_context(ranks_of_torchrun())
        store = DatasetStore(found.datasets_dir, quota=found.dataset_quota_bytes)
        if not force:
            _require_memory(data, preset, config, found.data_dir, store)
        dataset = load_dataset(data, found.data_dir, store, config)
        try:
            with live_view(as_json) as observe:
                artifact = run(
                    dataset,
                    preset,
                    config,
                    folder,
                    observe=observe,
                    should_stop=stop.is_set,
                    threads=found.train_threads,
                    ranks=ranks,
                )
        except Interrupted as error:
            raise fail(f"{error}; the checkpoint is in {folder}", INTERRUPTED) from error
        if not ranks.first:
            return
        version = Registry(found.registry_dir).publish(artifact, name, promote=promote)
        if given is None:
            # Its checkpoints would make the next run of this name end at once.
            shutil.rmtree(folder)
    reference = f"{version.name}:{version.version}"
    if as_json:
        published = {"model": version.name, "version": version.version, "ref": reference}
        typer.echo(json.dumps({"event": "published", **published}))
    else:
        typer.echo(f"registered {reference}")


def _config(preset: str, max_steps: int | None, max_minutes: float | None, pairs: list[str]) -> TrainingConfig:
    from pydantic import ValidationError

    from models.training.presets import PRESETS

    given: dict[str, Any] = {"max_steps": max_steps, "max_minutes": max_minutes}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise fail(f"--set wants NAME=VALUE, got {pair!r}", USAGE)
        given[key] = value
    try:
        return PRESETS[preset].config({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise fail("; ".join(lines), USAGE) from error


def _require_memory(data: str, preset: str, config: TrainingConfig, data_dir: Path | None, store: DatasetStore) -> None:
    from models.datasets import summarize
    from models.training.cost.estimate import estimate_training
    from models.training.presets import PRESETS
    from worker.runtime.machine import memory_of_this_machine

    summary = summarize(data, data_dir, store, config)
    architecture = PRESETS[preset].architecture(summary.image_shape, config.pixel_transform)
    needed = estimate_training(architecture, config, summary).memory_bytes
    available = memory_of_this_machine()
    if available is not None and needed > available:
        raise fail(
            f"the training is expected to need {needed} bytes of memory; this machine has {available}. "
            "A smaller batch_size or preset needs less; --force trains all the same",
            USAGE,
        )


@contextmanager
def speaking_first() -> Iterator[None]:
    """Silences what a process says that ``torchrun`` started, unless it is the first; its tracebacks stay."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Gives an event that Ctrl-C or TERM sets; a second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
