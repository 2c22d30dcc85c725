# ruff: noqa: PLC0415 - heavy imports wait until they are needed
"""Shell completion of names, from the service if the command line has ``--url``, else from this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from snf_client import Client
    from snf_worker.settings import Settings

TIMEOUT_S = 1.0  # longest wait for a service while a user waits for a completion


def _completer(
    local: Callable[[Settings], Iterable[str]] | None, remote: Callable[[Client], Iterable[str]] | None = None
) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion by names of this machine, or of a service where the command line has ``--url``."""

    def names(url: str | None) -> Iterable[str]:
        from snf_worker.settings import address, load_settings

        settings = load_settings()
        if local is not None and (remote is None or not url):
            return local(settings)
        from snf_client import Client, Retries

        assert remote is not None
        with Client(url or address(settings), timeout=TIMEOUT_S, retries=Retries(attempts=1)) as client:
            return remote(client)

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        # An error message would end up in the user's command line.
        try:
            return [name for name in names(context.params.get("url")) if name.startswith(incomplete)]
        except Exception:
            return []

    return complete


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


def _models(settings: Settings) -> list[str]:
    from snf_models.registry.registry import Registry

    return Registry(settings.registry_dir).names()


def _datasets(settings: Settings) -> list[str]:
    from snf_models.datasets import DatasetStore, dataset_names

    return dataset_names(settings.data_dir, DatasetStore(settings.datasets_dir))


def _backbones(settings: Settings) -> list[str]:
    from snf_models.features.backbones import BackboneStore

    return BackboneStore(settings.backbones_dir).names()


def _presets(_settings: Settings) -> list[str]:
    from snf_models.pipeline.presets import PRESETS

    return list(PRESETS)


def _runs(settings: Settings) -> list[str]:
    from snf_worker.jobs.runs import RunStore

    return [run.id for run in RunStore(settings.run_records_dir).list(50)]


# Without versions, because shells split words at colons.
models = _completer(_models, lambda client: [model.name for model in client.models.list().models])
datasets = _completer(_datasets, lambda client: [dataset.name for dataset in client.datasets.list().datasets])
backbones, presets = _completer(_backbones), _completer(_presets)
# The newest 50.
jobs = _completer(None, lambda client: [job.id for job in client.jobs.list(limit=50).jobs])
runs = _completer(_runs, lambda client: [run.id for run in client.runs.list(limit=50).runs])
