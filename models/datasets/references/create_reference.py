"""Creation of the folder of a dataset by reference: an index, and after inspection also a report.

Inspection also adds a table of the images and a contact sheet, as for an upload.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from models.datasets.ingest.fill import add_image, report_on, write_report
from models.datasets.ingest.items import ImageFile
from models.datasets.ingest.limits import DiskQuota
from models.datasets.prepared import Progress, no_progress
from models.datasets.references.build_index import build_index
from models.datasets.references.index import REFERENCE, ReferenceRecord
from models.datasets.references.referenced_files import ReferencedFiles
from models.datasets.report import Findings
from models.datasets.storage import write_storage
from models.errors import ImageError
from models.locations.location import Location


@dataclass(frozen=True)
class NewReference:
    """Name, image location and options of a dataset that is to be created without copies of its images.

    Such a dataset is called a dataset by reference.

    Attributes:
        name: Its name.
        location: URL of the folder or file with the images.
        column: The column of Parquet files with the images; None to find it.
        inspect: Whether every image is read once, for its size, colour and duplicates, as jobs other than scoring need.
        quota: The most bytes of all datasets together, of which the index takes few.
        by_request: Whether a request to the service named the location.
    """

    name: str
    location: str
    column: str | None = None
    inspect: bool = False
    quota: int | None = None
    by_request: bool = False


def fill_reference(folder: Path, new: NewReference, progress: Progress = no_progress) -> None:
    """Write files that describe a new dataset, whose images are not copied, into an empty folder.

    These are an index, and with inspection also a table of the images, a report and a contact sheet.

    Args:
        folder: The folder, beside those of the other datasets.
        new: The dataset to be created.
        progress: Called with the bytes at the location that were read, and with all; inspection reads them again.

    Raises:
        DatasetRefused: There is no image, no column of images, or for an inspection there are too few images.
        LocationNotFound: There is nothing at the location.
        LocationUnavailable: The location cannot be reached.
        StorageFull: There is no room on the disk.
    """
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
