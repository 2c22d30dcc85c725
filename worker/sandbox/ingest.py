"""Reading an uploaded dataset, in a process of its own: ``python -m worker.sandbox.ingest`` is that process."""

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
    from models.datasets.ingest.fill import NewDataset
    from models.datasets.report import DatasetReport
    from worker.settings import Settings

BYTES_PER_CPU_S = 100_000
"""Uploaded bytes that each further second of processor time is for: tiny images of arrays, the slowest honest kind, are
read at some 700,000 a second."""
WALL_FACTOR = 4
"""Seconds on the clock for each of processor time: the process has the lowest priority and waits for the disk."""


def ingest(
    store: DatasetStore, name: str, sources: Sequence[Source], settings: Settings, progress: Callable[[int, int], None]
) -> DatasetReport:
    """Make a dataset of files and return its report; whatever is in them, this process never opens them.

    ``progress`` gets bytes of the sources, and is called twice a second at least; what it raises ends it. Raises what
    ``DatasetStore.create`` raises, and ``DatasetRefused`` for files that need more time or memory than they may.
    """

    def fill(folder: Path, new: NewDataset, progress: Callable[[int, int], None]) -> None:
        order = vars(new) | {
            "folder": os.fspath(folder.absolute()),
            "sources": [(os.fspath(source.path.absolute()), source.filename) for source in new.sources],
            "limits": vars(new.limits),
        }
        try:
            run_limited("worker.sandbox.ingest", order, _limits(new.packed, settings), progress)
        except LimitExceeded as error:
            raise DatasetRefused(
                "reading-limit", "Reading the upload takes too much", f"reading it takes {error}; send less at once"
            ) from error
        except ProcessDied as error:
            if not error.by_signal:
                raise
            detail = "the process that read it was ended by the system; its files may be damaged on purpose"
            raise DatasetRefused("reading-failed", "The upload cannot be read", detail) from error

    return store.create(name, sources, progress=progress, fill=fill)


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
