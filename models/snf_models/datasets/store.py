from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from snf_models.atomic_files import make_folder, new_folder, remove_folder, remove_leftovers
from snf_models.datasets.builtin import NAMES
from snf_models.datasets.choose_preprocessing import choose_preprocessing
from snf_models.datasets.dataset import Dataset, DatasetSummary
from snf_models.datasets.ingest.fill import REPORT, SHEET, NewDataset, fill_folder
from snf_models.datasets.ingest.limits import DiskQuota, Limits
from snf_models.datasets.ingest.near_duplicates import NearDuplicates
from snf_models.datasets.ingest.uploaded_files import Source
from snf_models.datasets.prepared import LEFTOVER_SECONDS, Progress, no_progress, prepare
from snf_models.datasets.references.create_reference import NewReference, fill_reference
from snf_models.datasets.references.index import REFERENCE, ReferenceRecord, read_record
from snf_models.datasets.report import DatasetReport
from snf_models.datasets.splits import FOLDS, MOST_REPEATED
from snf_models.disk_space import storage_errors
from snf_models.errors import DatasetNotFound, DatasetTaken, DatasetUnfit
from snf_models.images.options import ImageOptions
from snf_models.locations.location import Location
from snf_models.naming import check_name, is_name
from snf_models.texts.suggestions import choices


class DatasetStore:
    """Store of user datasets, a folder for each under ``root``; ``quota`` is the most bytes of all together."""

    def __init__(self, root: Path, *, quota: int | None = None) -> None:
        self.root = root
        self.quota = quota

    def names(self) -> list[str]:
        """Return the sorted names of complete datasets."""
        folders = {path.parent.name for file in (REPORT, REFERENCE) for path in self.root.glob(f"*/{file}")}
        return sorted(filter(is_name, folders))

    def has(self, name: str) -> bool:
        return is_name(name) and any((self.root / name / file).is_file() for file in (REPORT, REFERENCE))

    def report(self, name: str) -> DatasetReport:
        """Read the report; raise ``DatasetNotFound``, or ``DatasetUnfit`` for a reference that was not inspected."""
        self.require_inspected(name)
        try:
            return DatasetReport.model_validate_json((self._folder(name) / REPORT).read_bytes())
        except (OSError, ValidationError) as error:
            raise DatasetNotFound(f"the report of dataset {name!r} cannot be read") from error

    def is_inspected(self, name: str) -> bool:
        return (self._folder(name) / REPORT).is_file()

    def require_inspected(self, name: str) -> None:
        """Raise ``DatasetNotFound``, or ``DatasetUnfit`` for a reference that was not inspected."""
        if not self.is_inspected(name):
            raise DatasetUnfit(
                f"{name} refers to images that were not inspected: only jobs of type score take it; for others delete "
                "it and refer to the images again with inspect"
            )

    def reference(self, name: str) -> ReferenceRecord | None:
        """Return None for an uploaded dataset; raise ``DatasetNotFound``."""
        index = self.reference_index(name)
        return None if index is None else read_record(index)

    def reference_index(self, name: str) -> Path | None:
        """Return None for an uploaded dataset; raise ``DatasetNotFound``."""
        path = self._folder(name) / REFERENCE
        return path if path.is_file() else None

    def contact_sheet(self, name: str) -> Path:
        """Return a PNG of up to 100 images; raise as :meth:`report`."""
        self.require_inspected(name)
        return self._folder(name) / SHEET

    def check_free(self, name: str) -> None:
        """Raise ``InvalidName`` or ``DatasetTaken`` otherwise."""
        check_name(name)
        if name in NAMES or (self.root / name).exists():
            raise _taken(name)

    @contextmanager
    def creating(self, name: str) -> Iterator[Path]:
        """Yield a folder that becomes a dataset if the block ends without an exception, and is removed otherwise."""
        self.check_free(name)
        make_folder(self.root)
        remove_leftovers(self.root, LEFTOVER_SECONDS)
        with storage_errors():
            try:
                with new_folder(self.root / name) as folder:
                    yield folder
            except FileExistsError as error:
                raise _taken(name) from error

    def create(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        limits: Limits | None = None,
        progress: Progress = no_progress,
        near_duplicates: NearDuplicates = "keep",
    ) -> DatasetReport:
        """Create a dataset from files that this process reads. Raises as :meth:`creating`, and ``DatasetRefused``."""
        new = NewDataset(name, sources, limits or Limits(), self.quota, near_duplicates)
        with self.creating(name) as folder:
            fill_folder(folder, new, progress)
        return self.report(name)

    def refer(
        self,
        name: str,
        location: Location,
        *,
        column: str | None = None,
        inspect: bool = False,
        by_request: bool = False,
        progress: Progress = no_progress,
    ) -> None:
        """Create a dataset of images that stay at their location; raise as :meth:`create`, or ``Location`` errors."""
        new = NewReference(name, location.url, column, inspect, self.quota, by_request)
        with self.creating(name) as folder:
            fill_reference(folder, new, progress)

    def delete(self, name: str) -> None:
        """Remove a dataset. Processes that map its pixels keep them; images at a location stay."""
        try:
            remove_folder(self._folder(name))
        except FileNotFoundError as error:  # another call has removed it
            raise self._not_found(name) from error

    def load(self, name: str, config: ImageOptions, progress: Progress = no_progress) -> Dataset:
        """Map the preprocessed pixels, made at the first call; raise ``DatasetUnfit``, ``StorageFull``."""
        report = self.report(name)
        preprocessing = choose_preprocessing(config, report.facts, report.name)
        with storage_errors():
            return prepare(self._folder(name), report, preprocessing, self._room, progress)

    def _room(self) -> DiskQuota:
        return DiskQuota(self.root, self.quota)

    def _folder(self, name: str) -> Path:
        if not self.has(name):
            raise self._not_found(name)
        return self.root / name

    def _not_found(self, name: str) -> DatasetNotFound:
        return DatasetNotFound(f"there is no dataset {name!r}; {choices(name, self.names())}")


def summarize_report(report: DatasetReport, config: ImageOptions) -> DatasetSummary:
    """Raise ``DatasetUnfit`` if the images cannot be used as ``config`` asks."""
    preprocessing = choose_preprocessing(config, report.facts, report.name)
    split = report.split
    parts = split.train, split.statistics, split.calibration
    whole_folds = FOLDS if report.images <= MOST_REPEATED else 0
    return DatasetSummary(preprocessing.shape, *parts, 0, len(split.folds), whole_folds)


def _taken(name: str) -> DatasetTaken:
    return DatasetTaken(f"a dataset {name!r} exists already; choose another name or delete it first")
