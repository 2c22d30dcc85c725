"""Creation of datasets from files that only a sandboxed process opens."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snf_models.datasets import DatasetStore, Source
from snf_models.datasets.report import NearDuplicates
from snf_models.datasets.store import NewDataset, NewReference, fill_folder, fill_reference
from snf_models.datasets.upload_items import Limits
from snf_models.errors import DatasetRefused
from snf_models.locations.location import Location
from snf_models.locations.object_store import store_variables
from snf_worker.sandbox.process import LimitExceeded, ProcessKilled, ProcessLimits, Progress, run_sandboxed
from snf_worker.settings import Settings

BYTES_PER_CPU_S = 100_000
"""Uploaded bytes for each second of processor time; the slowest honest input has about 700,000."""
WALL_FACTOR = 4
"""Seconds of real time for each second of processor time: the process has a low priority and waits for the disk."""
REQUEST_SECONDS = 3600  # longest time in seconds that a request to the service may take to index a location
LOCAL_SECONDS = 30 * 86_400  # longest time in seconds that a command of the machine itself may take


def ingest(
    store: DatasetStore,
    name: str,
    sources: Sequence[Source],
    settings: Settings,
    progress: Progress,
    near_duplicates: NearDuplicates = "keep",
) -> None:
    """Create a dataset from uploaded files; an error of ``progress`` leaves no dataset."""
    new = NewDataset(name, sources, Limits(), store.quota, near_duplicates)
    done = 0

    def follow(read: int, packed: int) -> None:
        nonlocal done
        done = read
        progress(read, packed)

    advice = "split the upload into smaller datasets"
    with (
        store.creating(name) as folder,
        _refusals(lambda: _file_at(sources, done), advice, "the files; check that they"),
    ):
        order = vars(new) | {
            "folder": os.fspath(folder.absolute()),
            "sources": [(os.fspath(source.path.absolute()), source.filename) for source in sources],
            "limits": vars(new.limits),
        }
        run_sandboxed(read_files, order, _limits(new.packed, settings), follow)


def read_files(order: dict[str, Any], progress: Progress) -> None:
    folder = Path(order.pop("folder"))
    sources = [Source(Path(path), filename) for path, filename in order.pop("sources")]
    fill_folder(folder, NewDataset(**order | {"sources": sources, "limits": Limits(**order["limits"])}), progress)


def refer(
    store: DatasetStore,
    name: str,
    location: Location,
    settings: Settings,
    progress: Progress,
    *,
    column: str | None = None,
    inspect: bool = False,
    by_request: bool = False,
    seconds: int = REQUEST_SECONDS,
) -> None:
    """Create a dataset that refers to images; with ``inspect``, as jobs but scoring need, each image is read."""
    new = NewReference(name, location.url, column, inspect, store.quota, by_request)
    limits = ProcessLimits(settings.ingest_memory_bytes, seconds, seconds)
    advice = "refer to fewer files, or use snf datasets refer on the machine of the service"
    killed = f"{new.location}; check that its files"
    with store.creating(name) as folder, _refusals(lambda: new.location, advice, killed):
        order = vars(new) | {"folder": os.fspath(folder.absolute())}
        run_sandboxed(read_location, order, limits, progress, store_variables())


def read_location(order: dict[str, Any], progress: Progress) -> None:
    folder = Path(order.pop("folder"))
    fill_reference(folder, NewReference(**order), progress)


@contextmanager
def _refusals(reading: Callable[[], str], advice: str, killed: str) -> Iterator[None]:
    """Raise ``DatasetRefused`` where the process reached a limit or was killed."""
    try:
        yield
    except LimitExceeded as error:
        raise DatasetRefused(
            "reading-limit", "Reading the files takes too much", f"reading {reading()} takes {error}; {advice}"
        ) from error
    except ProcessKilled as error:
        detail = f"the system killed the process that read {killed} are not damaged"
        raise DatasetRefused("reading-failed", "The files cannot be read", detail) from error


def _file_at(sources: Sequence[Source], done: int) -> str:
    for source in sources:
        done -= source.path.stat().st_size
        if done < 0:
            break
    return ascii(source.filename)[1:-1]


def _limits(packed: int, settings: Settings) -> ProcessLimits:
    cpu_s = math.ceil(settings.ingest_seconds + packed / BYTES_PER_CPU_S)
    return ProcessLimits(settings.ingest_memory_bytes, cpu_s, WALL_FACTOR * cpu_s)
