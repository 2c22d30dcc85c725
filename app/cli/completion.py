# ruff: noqa: PLC0415 - heavy imports wait until they are needed
"""Completing names in a shell: models, datasets, presets and jobs, from where the command would look for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from snf_client import Client

PATIENCE_S = 1.0
"""Longest wait for a service: who presses a key does not wait longer."""


def _complete(find: Callable[[typer.Context], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    def complete(context: typer.Context, incomplete: str) -> list[str]:
        # Whatever fails, a shell that waits for words must get no error instead.
        try:
            return [word for word in find(context) if word.startswith(incomplete)]
        except Exception:
            return []

    return complete


def _client(url: str | None) -> Client:
    from snf_client import Client, Retries
    from worker.launch.launcher import address
    from worker.settings import load_settings

    return Client(url or address(load_settings()), timeout=PATIENCE_S, retries=Retries(attempts=1))


def _url(context: typer.Context) -> str | None:
    found = context.params.get("url")
    return str(found) if found else None


@_complete
def models(context: typer.Context) -> list[str]:
    """Names of models, of the service or the registry; of shells that split words at colons no version is asked."""
    if url := _url(context):
        with _client(url) as client:
            return [one.name for one in client.models.list().models]
    from models.registry.registry import Registry
    from worker.settings import load_settings

    return Registry(load_settings().registry_dir).names()


@_complete
def datasets(context: typer.Context) -> list[str]:
    """Names of datasets, of the service or of this machine."""
    if url := _url(context):
        with _client(url) as client:
            return [one.name for one in client.datasets.list().datasets]
    from models.datasets import DatasetStore, dataset_names
    from worker.settings import load_settings

    here = load_settings()
    return dataset_names(here.data_dir, DatasetStore(here.datasets_dir))


@_complete
def presets(_context: typer.Context) -> list[str]:
    """Names of presets."""
    from models.training.presets import PRESETS

    return list(PRESETS)


@_complete
def jobs(context: typer.Context) -> list[str]:
    """Ids of the newest jobs of the service."""
    with _client(_url(context)) as client:
        return [job.id for job in client.jobs.list(limit=50).jobs]
