"""Store of user datasets on disk, with one folder for each dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from models.atomic_files import make_folder, new_folder, remove_folder, remove_leftovers
from models.datasets.builtin import NAMES
from models.datasets.choose_preprocessing import choose_preprocessing
from models.datasets.dataset import Dataset, DatasetSummary
from models.datasets.ingest.fill import REPORT, SHEET, NewDataset, fill_folder
from models.datasets.ingest.limits import DiskQuota, Limits
from models.datasets.ingest.near_duplicates import NearDuplicates
from models.datasets.ingest.uploaded_files import Source
from models.datasets.prepared import LEFTOVER_SECONDS, Progress, no_progress, prepare
from models.datasets.references.create_reference import NewReference, fill_reference
from models.datasets.references.index import REFERENCE, ReferenceRecord, read_record
from models.datasets.report import DatasetReport
from models.datasets.splits import FOLDS, MOST_REPEATED
from models.disk_space import storage_errors
from models.errors import DatasetNotFound, DatasetTaken, DatasetUnfit
from models.images.options import ImageOptions
from models.locations.location import Location
from models.naming import check_name, is_name
from models.texts.suggestions import choices
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.images.tiles import tile_plan


class DatasetStore:
    """Store of user datasets, with one folder for each dataset under ``root``.

    The folder of an upload holds the originals, an index, a report and preprocessed pixels. That of a dataset by
    reference holds no originals, and no report unless its images were inspected.

    Attributes:
        root: The folder.
        quota: The most bytes of all datasets together; None for no limit.
    """

    def __init__(self, root: Path, *, quota: int | None = None) -> None:
        self.root = root
        self.quota = quota

    def names(self) -> list[str]:
        """Return the sorted names of all datasets of users, except those that are still being created."""
        folders = {path.parent.name for file in (REPORT, REFERENCE) for path in self.root.glob(f"*/{file}")}
        return sorted(filter(is_name, folders))

    def has(self, name: str) -> bool:
        """Return whether a complete user-made dataset has this name; built-in datasets do not count."""
        return is_name(name) and any((self.root / name / file).is_file() for file in (REPORT, REFERENCE))

    def report(self, name: str) -> DatasetReport:
        """Return the report on a dataset's images: their sizes, colours, duplicates and rejected files.

        It was made when the dataset was uploaded or inspected.

        Raises ``DatasetNotFound``, and ``DatasetUnfit`` for a dataset by reference that was not inspected.
        """
        self.require_inspected(name)
        try:
            return DatasetReport.model_validate_json((self._folder(name) / REPORT).read_bytes())
        except (OSError, ValidationError) as error:
            raise DatasetNotFound(f"the report of dataset {name!r} cannot be read") from error

    def is_inspected(self, name: str) -> bool:
        """Return whether a dataset has a report on its images, made at upload or by inspection.

        Only datasets by reference that were not inspected have no report.

        Raises ``DatasetNotFound``.
        """
        return (self._folder(name) / REPORT).is_file()

    def require_inspected(self, name: str) -> None:
        """Check that a dataset exists and that its images were examined, at upload or by inspection.

        Raises ``DatasetNotFound`` or ``DatasetUnfit`` otherwise.
        """
        if not self.is_inspected(name):
            raise DatasetUnfit(
                f"{name} refers to images that were not inspected: only jobs of type score take it; for others delete "
                "it and refer to the images again with inspect"
            )

    def reference(self, name: str) -> ReferenceRecord | None:
        """Return the location and files that a dataset refers to, or None if its images were uploaded.

        Raises ``DatasetNotFound``.
        """
        index = self.reference_index(name)
        return None if index is None else read_record(index)

    def reference_index(self, name: str) -> Path | None:
        """Return the path of the index file of a dataset by reference; None for an uploaded dataset.

        Raises ``DatasetNotFound``.
        """
        path = self._folder(name) / REFERENCE
        return path if path.is_file() else None

    def contact_sheet(self, name: str) -> Path:
        """Return the path of a PNG that shows up to 100 images of a dataset.

        Raises ``DatasetNotFound``, and ``DatasetUnfit`` for a dataset by reference that was not inspected.
        """
        self.require_inspected(name)
        return self._folder(name) / SHEET

    def check_free(self, name: str) -> None:
        """Check that a dataset name is valid and unused.

        Raises ``InvalidName`` or ``DatasetTaken`` otherwise.
        """
        check_name(name)
        if name in NAMES or (self.root / name).exists():
            raise _taken(name)

    @contextmanager
    def creating(self, name: str) -> Iterator[Path]:
        """Yield an empty folder, which becomes a dataset when the ``with`` block ends without an exception.

        Other processes see the dataset only then. If the block raises, nothing of it is left.

        Raises:
            InvalidName: The name breaks the rule of names.
            DatasetTaken: The name is in use, perhaps only since the block began.
            StorageFull: The disk has no room for what the block writes.
            StorageReadOnly: The disk takes no writes.
        """
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
        """Create a dataset from files, which this process reads itself, and return its report.

        Args:
            name: The name of the new dataset.
            sources: The files.
            limits: The largest upload.
            progress: Called with the bytes of the sources that were read, and all; what it raises ends the work.
            near_duplicates: Whether images that are like an earlier one are kept.

        Raises:
            InvalidName: The name breaks the rule of names.
            DatasetTaken: The name is in use.
            DatasetRefused: An archive or array is unsafe, damaged or too large, or fewer than 10 images are usable.
            StorageFull: There is no room for the images.
        """
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
        """Create a dataset that refers to the images in a folder or file without copying them.

        Args:
            name: The name of the new dataset.
            location: The folder or file with the images, which this process reads itself.
            column: The column of Parquet files with the images; None to find it by its type.
            inspect: Whether every image is read, as jobs other than scoring need.
            by_request: Whether a request to the service named the location.
            progress: Called with the bytes that were read, and all; what it raises ends the work.

        Raises:
            InvalidName: The name breaks the rule of names.
            DatasetTaken: The name is in use.
            DatasetRefused: There is no image, or no column of images.
            LocationNotFound: There is nothing at the location.
            LocationUnavailable: The location cannot be reached.
        """
        new = NewReference(name, location.url, column, inspect, self.quota, by_request)
        with self.creating(name) as folder:
            fill_reference(folder, new, progress)

    def delete(self, name: str) -> None:
        """Remove a dataset of a user from disk.

        Raises ``DatasetNotFound`` if no dataset of a user has this name.

        The images of a dataset by reference stay where they are. Processes with its pixels in mapped memory keep them.
        """
        try:
            remove_folder(self._folder(name))
        except FileNotFoundError as error:  # another call has removed it
            raise self._not_found(name) from error

    def load(self, name: str, config: ImageOptions, progress: Progress = no_progress) -> Dataset:
        """Load a user's dataset, with images preprocessed to the size and colour mode that ``config`` sets.

        What ``config`` leaves open is chosen to suit the images. The pixels are mapped from a file on disk.

        The file is made at the first call. Then ``progress`` is called with the number of prepared images, and of all.
        Raises ``DatasetNotFound``, ``DatasetUnfit``, ``StorageFull``.
        """
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
    """Return the image shape and the image count of each part of the dataset that a report describes.

    Raises ``DatasetUnfit`` if the images cannot be used as ``config`` asks.
    """
    preprocessing = choose_preprocessing(config, report.facts, report.name)
    split, tiles = report.split, _mean_tiles(report, preprocessing) if preprocessing.tiled else 1.0
    parts = split.train, split.statistics, split.calibration
    whole_folds = FOLDS if report.images <= MOST_REPEATED else 0
    return DatasetSummary(preprocessing.shape, *parts, 0, len(split.folds), tiles, whole_folds)


def _mean_tiles(report: DatasetReport, preprocessing: Preprocessing) -> float:
    """Return the mean number of tiles of the images of the most frequent sizes, whatever the stride of the backbone."""
    side = preprocessing.height
    stride = side // 8 if side % 8 == 0 else side
    tiles = sum(size.images * len(tile_plan(size.height, size.width, side, stride)) for size in report.sizes)
    return tiles / max(1, sum(size.images for size in report.sizes))


def _taken(name: str) -> DatasetTaken:
    return DatasetTaken(f"a dataset {name!r} exists already; choose another name or delete it first")
