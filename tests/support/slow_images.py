"""Images that processes of an engine take their time to read, and that say which process reads which part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snf_models.artifacts.manifest import read_manifest
from snf_models.bulk.output import open_output
from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.tables import PartSummary, table_of
from snf_models.bulk.work import BulkWork, OpenWork
from snf_models.datasets.image_source import DatasetImages, ImageSource
from snf_models.errors import Interrupted
from snf_models.loading.verification import ModelFiles
from snf_models.locations.location import Location
from snf_models.score_rows import failed_row
from snf_models.scorer import Scorer
from snf_models.scoring import EngineOptions
from snf_runtime.images.batch import NamedImage, batches_of
from snf_runtime.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class WorkWithoutModel(BulkWork):
    """A bulk scoring whose processes load no model, which takes them seconds: each row says that it has no score."""

    def open(self, threads: int | None = None, scorer: Scorer | None = None) -> OpenWork:
        return _OpenWithoutModel(self)


class _OpenWithoutModel(OpenWork):
    def __init__(self, work: BulkWork) -> None:
        self._output = work.output
        self.source = work.images.open(read_manifest(work.model.path).preprocessing)

    def score(
        self, index: int, should_stop: Callable[[], bool], progress: Callable[[int], None] = lambda _images: None
    ) -> PartSummary:
        rows = []
        for batch in batches_of(self.source.read(*self._output.plan.range(index))):
            if should_stop():
                raise Interrupted("scoring was stopped")
            rows += [failed_row(path, "not-scored", "there is no model") for path, _ in batch]
            progress(len(batch))
        return self._output.write(index, table_of(rows))


@dataclass(frozen=True)
class Fault:
    """An error in the place of the images of a part."""

    start: int
    error: Exception
    times: int = 99


@dataclass(frozen=True)
class SlowImages:
    """Images of ``mnist-mini`` for a :class:`BulkWork`."""

    journal: Path
    seconds: float = 0.0
    faults: tuple[Fault, ...] = ()

    def open(self, preprocessing: Preprocessing) -> ImageSource:
        """Return the images."""
        return _SlowSource(self, DatasetImages("mnist-mini", None, Path("nowhere")).open(preprocessing))

    def readers(self, start: int | None = None) -> list[tuple[int, int]]:
        """Return the first image of every part that was begun, or of one part, and the process that did."""
        if not self.journal.exists():
            return []
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [(int(first), int(pid)) for first, pid in lines if start in (None, int(first))]


def slow_work(
    artifact: Path,
    folder: Path,
    images_per_part: int = 25,
    options: EngineOptions | None = None,
    work: type[BulkWork] = BulkWork,
    **slowness: Any,
) -> tuple[BulkWork, SlowImages]:
    """Return a bulk scoring of slow images with a model, whose parts are in a folder."""
    images = SlowImages(folder / "journal", **slowness)
    manifest = read_manifest(artifact)
    source = images.open(manifest.preprocessing)
    plan = BulkPlan(
        model="digits:1",
        weights_sha256=manifest.log_dets.weights_sha256,
        dataset="mnist-mini",
        source_digest=source.digest,
        alpha=0.05,
        count=source.count,
        images_per_part=images_per_part,
    )
    output = open_output(Location.parse(str(folder / "out")), plan)
    return work(output, ModelFiles(artifact, None, options or EngineOptions("torch")), images), images


class _SlowSource:
    def __init__(self, images: SlowImages, source: ImageSource) -> None:
        self.count, self.digest = source.count, source.digest
        self._images, self._source = images, source

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        with self._images.journal.open("a") as file:
            file.write(f"{start} {os.getpid()}\n")
        time.sleep(self._images.seconds / 2)
        for fault in self._images.faults:
            if start == fault.start and len(self._images.readers(start)) <= fault.times:
                raise fault.error
        middle = (start + stop) // 2
        yield from self._source.read(start, middle)
        time.sleep(self._images.seconds / 2)
        yield from self._source.read(middle, stop)
