# ruff: noqa: PLC0415 - heavy imports wait until they are needed
"""Shell completion of names, from the service if the command line has ``--url``, else from this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from snf_client import Client

TIMEOUT_S = 1.0  # longest wait for a service while a user waits for a completion


def _completer(names: Callable[[typer.Context], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    def complete(context: typer.Context, incomplete: str) -> list[str]:
        # An error message would end up in the user's command line.
        try:
            return [name for name in names(context) if name.startswith(incomplete)]
        except Exception:
            return []

    return complete


def _client(url: str | None) -> Client:
    from snf_client import Client, Retries
    from snf_worker.settings import address, load_settings

    return Client(url or address(load_settings()), timeout=TIMEOUT_S, retries=Retries(attempts=1))


def _url(context: typer.Context) -> str | None:
    url = context.params.get("url")
    return str(url) if url else None


def files(incomplete: str) -> list[str]:
    """Return paths, folders with a slash, for arguments that may also be a URL."""
    folder, slash, name = incomplete.rpartition("/")
    try:
        with os.scandir(folder + slash or ".") as entries:
            return sorted(
                f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
                for entry in entries
                if entry.name.startswith(name) and (name or not entry.name.startswith("."))
            )
    except OSError:
        return []


@_completer
def models(context: typer.Context) -> list[str]:
    """Return model names without versions, because shells split words at colons."""
    if url := _url(context):
        with _client(url) as client:
            return [model.name for model in client.models.list().models]
    from snf_models.registry.registry import Registry
    from snf_worker.settings import load_settings

    return Registry(load_settings().registry_dir).names()


@_completer
def datasets(context: typer.Context) -> list[str]:
    if url := _url(context):
        with _client(url) as client:
            return [dataset.name for dataset in client.datasets.list().datasets]
    from snf_models.datasets import DatasetStore, dataset_names
    from snf_worker.settings import load_settings

    settings = load_settings()
    return dataset_names(settings.data_dir, DatasetStore(settings.datasets_dir))


@_completer
def backbones(_context: typer.Context) -> list[str]:
    from snf_models.features.backbones import BackboneStore
    from snf_worker.settings import load_settings

    return BackboneStore(load_settings().backbones_dir).names()


@_completer
def presets(_context: typer.Context) -> list[str]:
    from snf_models.pipeline.presets import PRESETS

    return list(PRESETS)


@_completer
def jobs(context: typer.Context) -> list[str]:
    """Return the ids of the newest 50 jobs that begin with the typed text."""
    with _client(_url(context)) as client:
        return [job.id for job in client.jobs.list(limit=50).jobs]


@_completer
def runs(context: typer.Context) -> list[str]:
    """Return the ids of the newest 50 runs that begin with the typed text."""
    if url := _url(context):
        with _client(url) as client:
            return [run.id for run in client.runs.list(limit=50).runs]
    from snf_worker.jobs.runs import RunStore
    from snf_worker.settings import load_settings

    return [run.id for run in RunStore(load_settings().run_records_dir).list(50)]
