"""Import of an uploaded dataset in a child process, ``python -m worker.sandbox.ingest``."""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import DatasetRefused
from worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, run_limited
from worker.sandbox.work import do_limited

if TYPE_CHECKING:
    from models.datasets import DatasetStore, Source
    from models.datasets.ingest.near_duplicates import NearDuplicates
    from worker.settings import Settings

BYTES_PER_CPU_S = 100_000
"""Uploaded bytes for each second of processor time; the slowest honest input has about 700,000."""
WALL_FACTOR = 4
"""Seconds of real time for each second of processor time: the process has a low priority and waits for the disk."""


def ingest(
    store: DatasetStore,
    name: str,
    sources: Sequence[Source],
    settings: Settings,
    progress: Callable[[int, int], None],
    near_duplicates: NearDuplicates = "keep",
) -> None:
    """Create a dataset from files that only a child process opens; an error of ``progress`` leaves no dataset."""
    from models.datasets.ingest.fill import NewDataset
    from models.datasets.ingest.limits import Limits

    new = NewDataset(name, sources, Limits(), store.quota, near_duplicates)
    with store.creating(name) as folder:
        order = vars(new) | {
            "folder": os.fspath(folder.absolute()),
            "sources": [(os.fspath(source.path.absolute()), source.filename) for source in sources],
            "limits": vars(new.limits),
        }
        done = 0

        def followed(read: int, packed: int) -> None:
            nonlocal done
            done = read
            progress(read, packed)

        try:
            run_limited("worker.sandbox.ingest", order, _limits(new.packed, settings), followed)
        except LimitExceeded as error:
            raise DatasetRefused(
                "reading-limit",
                "Reading the files takes too much",
                f"reading {_file_at(sources, done)} takes {error}; split the upload into smaller datasets",
            ) from error
        except ProcessDied as error:
            if not error.by_signal:
                raise
            detail = "the system killed the process that read the files; check that they are not damaged"
            raise DatasetRefused("reading-failed", "The files cannot be read", detail) from error


def _file_at(sources: Sequence[Source], done: int) -> str:
    """Return the name of the file that is read after so many bytes of all files."""
    for source in sources:
        done -= source.path.stat().st_size
        if done < 0:
            break
    return ascii(source.filename)[1:-1]


def _limits(packed: int, settings: Settings) -> ProcessLimits:
    cpu_s = math.ceil(settings.ingest_seconds + packed / BYTES_PER_CPU_S)
    return ProcessLimits(settings.ingest_memory_bytes, cpu_s, WALL_FACTOR * cpu_s)


def _fill(order: dict[str, Any], progress: Callable[[int, int], None]) -> None:
    from models.datasets import Source
    from models.datasets.ingest.fill import NewDataset, fill_folder
    from models.datasets.ingest.limits import Limits

    folder = Path(order.pop("folder"))
    sources = [Source(Path(path), filename) for path, filename in order.pop("sources")]
    fill_folder(folder, NewDataset(**order | {"sources": sources, "limits": Limits(**order["limits"])}), progress)


if __name__ == "__main__":
    do_limited(_fill)
