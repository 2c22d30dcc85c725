"""Index of a dataset by reference: an SQLite file that records where every image is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from snf_client.schemas.datasets import FileKind, ReferenceRecord
from snf_models.datasets.upload_items import Limits
from snf_models.disk import new_database, new_path, open_database
from snf_models.errors import DatasetNotFound, ImageError

ERROR_ROWS = 1024  # most images without content that are handed on at once
REFERENCE = "reference.sqlite"
SCHEMA = (
    # Files with images, by the place of their first image in the dataset.
    """CREATE TABLE files (
        first INTEGER PRIMARY KEY, images INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
        size INTEGER NOT NULL, version TEXT NOT NULL)""",
    # Images in tar archives, by their place in the dataset.
    """CREATE TABLE members (
        place INTEGER PRIMARY KEY, name TEXT NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL)""",
    # Row groups of Parquet files, by the place of their first image in the dataset.
    "CREATE TABLE groups (place INTEGER PRIMARY KEY, images INTEGER NOT NULL, number INTEGER NOT NULL)",
    "CREATE TABLE record (json TEXT NOT NULL)",
)


class IndexedFile(NamedTuple):
    """A file with images, the first of which has the index ``first`` in the dataset."""

    first: int
    images: int
    kind: FileKind
    name: str
    size: int
    version: str


class TarMember(NamedTuple):
    """Byte range of an image in a tar archive; ``place`` is its index in the dataset."""

    place: int
    name: str
    start: int
    size: int


class RowGroup(NamedTuple):
    """Images in a row group of a Parquet file, from ``place`` in the dataset on."""

    place: int
    images: int
    number: int


class ReferenceIndex:
    def __init__(self, index: sqlite3.Connection) -> None:
        self._index = index

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[ReferenceIndex]:
        try:
            index = open_database(path)
        except sqlite3.OperationalError as error:
            raise DatasetNotFound(f"the index {path.name} of a dataset by reference cannot be read: {error}") from error
        with closing(index):
            yield cls(index)

    def record(self) -> ReferenceRecord:
        return ReferenceRecord.model_validate_json(self._index.execute("SELECT json FROM record").fetchone()[0])

    def largest_group(self) -> int:
        """Return the images of the largest row group of Parquet files, 1 without these."""
        return int(self._index.execute("SELECT coalesce(max(images), 1) FROM groups").fetchone()[0])

    def files(self, start: int, stop: int) -> Iterator[IndexedFile]:
        """Yield the files that have any of the images ``start`` to ``stop - 1``."""
        rows = self._index.execute(
            "SELECT first, images, kind, name, size, version FROM files WHERE first < ? AND first >= "
            "(SELECT max(first) FROM files WHERE first <= ?) ORDER BY first",
            (stop, start),
        )
        yield from map(IndexedFile._make, rows)

    def members(self, start: int, stop: int) -> Iterator[TarMember]:
        rows = self._index.execute(
            "SELECT place, name, start, size FROM members WHERE place >= ? AND place < ? ORDER BY place", (start, stop)
        )
        yield from map(TarMember._make, rows)

    def groups(self, start: int, stop: int) -> Iterator[RowGroup]:
        """Yield the row groups with images ``start`` to ``stop - 1``, which are in one Parquet file."""
        rows = self._index.execute(
            "SELECT place, images, number FROM groups WHERE place < ? AND place + images > ? AND place >= "
            "(SELECT max(place) FROM groups WHERE place <= ?) ORDER BY place",
            (stop, start, start),
        )
        yield from map(RowGroup._make, rows)


@contextmanager
def new_index(path: Path) -> Iterator[sqlite3.Connection]:
    """Create an index that appears after the ``with`` block, complete and durable."""
    with new_path(path) as temporary, new_database(temporary, *SCHEMA) as index:
        yield index


def read_record(path: Path) -> ReferenceRecord:
    try:
        with ReferenceIndex.open(path) as index:
            return index.record()
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise DatasetNotFound(f"the index {path.name} of a dataset by reference cannot be read: {error}") from error


class EncodedImage(NamedTuple):
    """Index, name and undecoded bytes of an image, or the reason why it cannot be read."""

    place: int
    name: str
    content: bytes | ImageError


def unreadable(detail: str) -> ImageError:
    return ImageError("unreadable-image", "The file cannot be read", detail)


def changed() -> ImageError:
    return unreadable(
        "the file has changed or is gone since the dataset was made; delete the dataset and refer to the files again"
    )


def too_large() -> ImageError:
    return ImageError("file-too-large", "The file is too large", f"at most {Limits.file_bytes} bytes are taken")


def failed_rows(file: IndexedFile, places: range, error: ImageError) -> Iterator[list[EncodedImage]]:
    for start in range(0, len(places), ERROR_ROWS):
        yield [EncodedImage(place, row_name(file, place), error) for place in places[start : start + ERROR_ROWS]]


def row_name(file: IndexedFile, place: int) -> str:
    return f"{file.name}/{place - file.first:06d}"
