from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snf_models.datasets.dataset import MIN_IMAGES
from snf_models.datasets.ingest.items import Ignored, ImageFile, ImagePixels, Rejected
from snf_models.datasets.ingest.limits import DiskQuota, Limits, UploadMeter
from snf_models.datasets.ingest.near_duplicates import NearDuplicates
from snf_models.datasets.ingest.uploaded_files import Source, read_sources
from snf_models.datasets.prepared import Progress
from snf_models.datasets.report import DatasetReport, Findings, make_report
from snf_models.datasets.splits import group_and_split
from snf_models.datasets.storage import Storage, StorageWriter, write_storage
from snf_models.errors import DatasetRefused, ImageError
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.images.preprocessing import Preprocessing, conform

REPORT = "report.json"
SHEET = "contact_sheet.png"
SHEET_IMAGES = 100
THUMBNAIL = Preprocessing(channels=3, height=64, width=64, fit="pad", colour="rgb")


@dataclass(frozen=True)
class NewDataset:
    name: str
    sources: Sequence[Source]
    limits: Limits
    quota: int | None  # bytes of all datasets together
    near_duplicates: NearDuplicates = "keep"

    @property
    def packed(self) -> int:
        return sum(source.path.stat().st_size for source in self.sources)


def fill_folder(folder: Path, new: NewDataset, progress: Progress) -> None:
    """Write images, index, report and contact sheet of an upload; ``progress`` gets the bytes read, and all."""
    room = DiskQuota(folder.parent, new.quota)
    packed = new.packed
    room.require(packed)
    meter, findings = UploadMeter(packed, new.limits), Findings()
    with write_storage(folder, room, new.near_duplicates) as writer:
        for item in read_sources(new.sources, meter):
            if isinstance(item, Ignored):
                findings.ignored += 1
            elif isinstance(item, Rejected):
                findings.reject(item.path, item.slug, item.reason)
            else:
                add_image(writer, item, findings)
            progress(min(meter.done, meter.packed), meter.packed)
        report = report_on(new.name, writer, findings)
    write_report(folder, report)
    progress(packed, packed)


def add_image(writer: StorageWriter, item: ImageFile | ImagePixels, findings: Findings, place: int = 0) -> None:
    try:
        if not writer.add(item, place):
            findings.reject(item.path, "name-taken", "another file has this name")
    except ImageError as error:
        findings.reject(item.path, error.slug, error.detail)


def report_on(name: str, writer: StorageWriter, findings: Findings) -> DatasetReport:
    """Divide a new dataset into parts and report on it; raise ``DatasetRefused`` if there are too few images."""
    different = writer.different_images()
    if different < MIN_IMAGES:
        raise _too_few(different, findings)
    return make_report(name, writer.index, findings, group_and_split(writer.index))


def write_report(folder: Path, report: DatasetReport) -> None:
    (folder / SHEET).write_bytes(_contact_sheet(folder, report.images))
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")


def _too_few(images: int, findings: Findings) -> DatasetRefused:
    detail = f"{images} different images can be used, at least {MIN_IMAGES} are needed"
    if findings.files:
        first = findings.files[0]
        detail += f"; {findings.slugs.total()} files were rejected, the first, {first.path}: {first.reason}"
    if findings.ignored:
        detail += f"; {findings.ignored} files were skipped, because their names are no images'"
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
