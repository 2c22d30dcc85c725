"""The datasets that users brought, one folder each."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
from pydantic import ValidationError

from models.datasets.builtin import NAMES
from models.datasets.choice import choose_preprocessing
from models.datasets.groups import group_and_split
from models.datasets.items import Ignored, Rejected
from models.datasets.limits import Limits, Meter, Room
from models.datasets.parts import MIN_IMAGES, Dataset, DatasetSummary
from models.datasets.prepare import LEFTOVER_SECONDS, Progress, nobody, prepare
from models.datasets.report import DatasetReport, Findings, make_report
from models.datasets.sources import Source, read_sources
from models.datasets.storage import Storage, write_storage
from models.files import new_folder, remove_leftovers
from models.images import encode_png, image_grid
from models.preprocessing import Preprocessing, conform
from models.problems import DatasetNotFound, DatasetRefused, DatasetTaken, ImageError, InvalidName, StorageFull
from models.training.config import TrainingConfig

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
REPORT = "report.json"
SHEET = "contact_sheet.png"
SHEET_IMAGES = 100
THUMBNAIL = Preprocessing(channels=3, height=64, width=64, fit="pad", colour="rgb")
RESERVE = 256 * 2**20


class DatasetStore:
    """Datasets under ``root``, a folder each: originals, table, report, contact sheet, prepared pixels.

    ``quota``: most bytes that all of them may take together. ``reserve``: bytes of the disk that stay free.
    """

    def __init__(self, root: Path, *, quota: int | None = None, reserve: int = RESERVE) -> None:
        self.root = root
        self._quota = quota
        self._reserve = reserve

    def names(self) -> list[str]:
        """Return the names of the complete datasets, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{REPORT}") if NAME.fullmatch(path.parent.name))

    def report(self, name: str) -> DatasetReport:
        """Return a dataset's report. Raises ``DatasetNotFound``."""
        try:
            return DatasetReport.model_validate_json((self._folder(name) / REPORT).read_bytes())
        except (OSError, ValidationError) as error:
            raise DatasetNotFound(f"the report of dataset {name!r} cannot be read") from error

    def contact_sheet(self, name: str) -> Path:
        """Return the PNG file with up to 100 of a dataset's images. Raises ``DatasetNotFound``."""
        return self._folder(name) / SHEET

    def check_free(self, name: str) -> None:
        """Raise ``InvalidName`` where no dataset may have this name, ``DatasetTaken`` where one has it already."""
        if NAME.fullmatch(name) is None:
            raise InvalidName(f"{name!r}: expected 1 to 64 of a-z 0-9 . _ - with a letter or digit first")
        if name in NAMES or (self.root / name).exists():
            raise _taken(name)

    def create(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        limits: Limits | None = None,
        progress: Progress = nobody,
    ) -> DatasetReport:
        """Validate the files and keep them as dataset ``name``; return its report. All of it is there, or nothing.

        ``progress`` is told bytes of the sources. Raises ``InvalidName``, ``DatasetTaken``, ``StorageFull``, and
        ``DatasetRefused`` for an archive or array that is unsafe, damaged or too large, and for fewer than 10 good
        images.
        """
        self.check_free(name)
        self.root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.root, LEFTOVER_SECONDS)
        packed = sum(source.path.stat().st_size for source in sources)
        room = Room(self.root, self._quota, self._reserve)
        room.require(packed)
        with _full_disk():
            try:
                with new_folder(self.root / name) as folder:
                    report = _fill(folder, name, sources, Meter(packed, limits or Limits()), room, progress)
            except FileExistsError as error:
                raise _taken(name) from error
        progress(packed, packed)
        return report

    def delete(self, name: str) -> None:
        """Remove a dataset; who has mapped its pixels keeps them. Raises ``DatasetNotFound``."""
        folder = self._folder(name)
        gone = self.root / f".{name}.{uuid4().hex}"  # a reader sees all of it or nothing
        try:
            folder.rename(gone)
        except FileNotFoundError as error:
            raise self._not_found(name) from error
        shutil.rmtree(gone)

    def summarize(self, name: str, config: TrainingConfig) -> DatasetSummary:
        """Return what training would get, without decoding. Raises ``DatasetNotFound``, ``DatasetUnfit``."""
        report = self.report(name)
        shape = choose_preprocessing(config, report.facts, name).shape
        split = report.split
        return DatasetSummary(shape, split.train, split.statistics, split.calibration, 0, len(split.folds))

    def load(self, name: str, config: TrainingConfig, progress: Progress = nobody) -> Dataset:
        """Return a dataset as ``config`` asks for it, its pixels mapped from a file that is made at the first time.

        ``progress`` is told images. Raises ``DatasetNotFound``, ``DatasetUnfit``, ``StorageFull``.
        """
        report = self.report(name)
        preprocessing = choose_preprocessing(config, report.facts, name)
        room = Room(self.root, self._quota, self._reserve)
        with _full_disk():
            return prepare(self._folder(name), report, preprocessing, room, progress)

    def _folder(self, name: str) -> Path:
        if NAME.fullmatch(name) is None or not (self.root / name / REPORT).is_file():
            raise self._not_found(name)
        return self.root / name

    def _not_found(self, name: str) -> DatasetNotFound:
        return DatasetNotFound(f"no dataset {name!r} here, there are: {', '.join(self.names()) or 'none'}")


def _fill(
    folder: Path, name: str, sources: Sequence[Source], meter: Meter, room: Room, progress: Progress
) -> DatasetReport:
    findings = Findings()
    with write_storage(folder, room) as writer:
        for item in read_sources(sources, meter):
            if isinstance(item, Ignored):
                findings.ignored += 1
            elif isinstance(item, Rejected):
                findings.reject(item.path, item.slug, item.reason)
            else:
                try:
                    if not writer.add(item):
                        findings.reject(item.path, "name-taken", "another file has this name")
                except ImageError as error:
                    findings.reject(item.path, error.slug, error.detail)
            progress(min(meter.done, meter.packed), meter.packed)
        different = writer.different_images()
        if different < MIN_IMAGES:
            raise _too_few(different, findings)
        split = group_and_split(writer.index)
        report = make_report(name, writer.index, findings, split)
    (folder / SHEET).write_bytes(_contact_sheet(folder, report.images))
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return report


def _too_few(images: int, findings: Findings) -> DatasetRefused:
    detail = f"{images} different images can be used, at least {MIN_IMAGES} are needed"
    if findings.files:
        first = findings.files[0]
        detail += f"; {findings.slugs.total()} files were rejected, the first, {first.path}: {first.reason}"
    return DatasetRefused("dataset-too-small", "The dataset is too small", detail)


def _contact_sheet(folder: Path, count: int) -> bytes:
    chosen = set(np.linspace(0, count - 1, min(count, SHEET_IMAGES)).round().astype(int).tolist())
    with Storage.open(folder) as storage:
        thumbnails = [
            conform(storage.image(stored), THUMBNAIL).pixels
            for place, stored in enumerate(storage.images("path"))
            if place in chosen
        ]
    return encode_png(image_grid(np.stack(thumbnails)))


def _taken(name: str) -> DatasetTaken:
    return DatasetTaken(f"there is a dataset {name!r} already; choose another name or delete it first")


@contextmanager
def _full_disk() -> Iterator[None]:
    """Turn what a full disk raises into ``StorageFull``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(f"the disk is full: {error.strerror}") from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise StorageFull("the disk is full: the table cannot grow") from error
