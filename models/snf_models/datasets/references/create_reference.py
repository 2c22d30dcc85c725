from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from snf_models.datasets.ingest.fill import add_image, report_on, write_report
from snf_models.datasets.ingest.items import ImageFile
from snf_models.datasets.ingest.limits import DiskQuota
from snf_models.datasets.prepared import Progress, no_progress
from snf_models.datasets.references.build_index import build_index
from snf_models.datasets.references.index import REFERENCE, ReferenceRecord
from snf_models.datasets.references.referenced_files import ReferencedFiles
from snf_models.datasets.report import Findings
from snf_models.datasets.storage import write_storage
from snf_models.errors import ImageError
from snf_models.locations.location import Location


@dataclass(frozen=True)
class NewReference:
    """A dataset by reference to be created."""

    name: str
    location: str
    column: str | None = None  # of Parquet files, None to find it
    inspect: bool = False  # read every image once, as jobs other than scoring need
    quota: int | None = None  # bytes of all datasets together
    by_request: bool = False  # whether a request to the service named the location


def fill_reference(folder: Path, new: NewReference, progress: Progress = no_progress) -> None:
    """Write an index, and with inspection a table of the images, a report and a contact sheet."""
    room = DiskQuota(folder.parent, new.quota)
    room.require(0)
    passes = 2 if new.inspect else 1
    record = build_index(
        Location(new.location),
        folder / REFERENCE,
        column=new.column,
        by_request=new.by_request,
        progress=lambda done, total: progress(done, passes * total),
    )
    room.take((folder / REFERENCE).stat().st_size)
    room.require(0)
    if new.inspect:
        _inspect(folder, new.name, record, room, progress)


def _inspect(folder: Path, name: str, record: ReferenceRecord, room: DiskQuota, progress: Progress) -> None:
    findings = Findings()
    findings.ignored, findings.files = record.ignored, list(record.rejected_files)
    findings.slugs = Counter(record.rejected_by)
    done, total = record.bytes, 2 * record.bytes
    with (
        write_storage(folder, room, copies=False) as writer,
        closing(ReferencedFiles(folder / REFERENCE).read(0, record.images)) as files,
    ):
        for place, path, content in files:
            if isinstance(content, ImageError):
                findings.reject(path, content.slug, content.detail)
            else:
                add_image(writer, ImageFile(path, content), findings, place)
                done += len(content)
            progress(min(done, total), total)
        report = report_on(name, writer, findings)
    write_report(folder, report)
