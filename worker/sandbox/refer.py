"""Creation of a dataset that refers to files, in a child process, ``python -m worker.sandbox.refer``."""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import DatasetRefused
from models.locations.object_store import store_variables
from worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, run_limited
from worker.sandbox.work import do_limited

if TYPE_CHECKING:
    from models.datasets import DatasetStore
    from models.locations.location import Location
    from worker.settings import Settings

REQUEST_SECONDS = 3600
"""Longest time in seconds that a request to the service may take to index a location."""
LOCAL_SECONDS = 30 * 86_400
"""Longest time in seconds that a command of the machine itself may take."""


def refer(
    store: DatasetStore,
    name: str,
    location: Location,
    settings: Settings,
    progress: Callable[[int, int], None],
    *,
    column: str | None = None,
    inspect: bool = False,
    by_request: bool = False,
    seconds: int = REQUEST_SECONDS,
) -> None:
    """Create a dataset that refers to images; with ``inspect``, as jobs but scoring need, each image is read."""
    from models.datasets.references.create_reference import NewReference

    new = NewReference(name, location.url, column, inspect, store.quota, by_request)
    limits = ProcessLimits(settings.ingest_memory_bytes, seconds, seconds)
    with store.creating(name) as folder:
        order = vars(new) | {"folder": os.fspath(folder.absolute())}
        try:
            run_limited("worker.sandbox.refer", order, limits, progress, store_variables())
        except LimitExceeded as error:
            raise DatasetRefused(
                "reading-limit",
                "Reading the files takes too much",
                f"reading {new.location} takes {error}; refer to fewer files, or use snf datasets refer on the machine "
                "of the service",
            ) from error
        except ProcessDied as error:
            if not error.by_signal:
                raise
            detail = f"the system killed the process that read {new.location}; check that its files are not damaged"
            raise DatasetRefused("reading-failed", "The files cannot be read", detail) from error


def _fill(order: dict[str, Any], progress: Callable[[int, int], None]) -> None:
    from models.datasets.references.create_reference import NewReference, fill_reference

    folder = Path(order.pop("folder"))
    fill_reference(folder, NewReference(**order), progress)


if __name__ == "__main__":
    do_limited(_fill)
