"""Datasets by reference: an index of images that stay at a location, and their reading."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

from snf_client.schemas.datasets import FileKind, ReferenceRecord
from snf_models.archives import PieceStream, TarReader
from snf_models.datasets.dataset import Progress, no_progress
from snf_models.datasets.uploads import CHUNK, Findings, Limits, archive_errors, is_top, safe_path
from snf_models.disk import new_database, new_path, open_database
from snf_models.errors import (
    DatasetNotFound,
    DatasetRefused,
    FileChanged,
    FileUnreadable,
    ImageError,
    LocationNotFound,
    LocationRefused,
)
from snf_models.locations.disk import FileEntry
from snf_models.locations.location import Location
from snf_models.naming import printable
from snf_models.threads import prefetch, read_ahead
from snf_runtime.images.files import is_no_image, path_text

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


GAP_BYTES = 2**20
"""Bytes between two images up to which both are read with one request: reading them takes less time than a request."""
PIECE_BYTES = 4 * 2**20  # bytes of neighbouring images in an archive that one request reads
FILE_ERRORS = FileChanged, FileUnreadable, LocationNotFound  # errors of one file, where the location itself can be read
SMALL_FILES, SMALL_BYTES = 8, 2**20  # image files that one thread reads one after the other: so many, or as many bytes


Piece = tuple[int, Callable[[], list[EncodedImage]]]  # bytes, and their reader


class ReferencedFiles:
    """Reader of encoded images by range, in bounded memory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, start: int, stop: int) -> Generator[EncodedImage]:
        """Yield every image once, or its error; raise ``LocationUnavailable`` where the location cannot be reached."""
        if start >= stop:
            return
        with ReferenceIndex.open(self._path) as index:
            record = index.record()
            location = Location(record.location)
            folder = location.parent if record.is_file else location  # file names in the index are relative to it
            for kind, files in groupby(index.files(start, stop), lambda file: file.kind):
                if kind == "parquet":
                    for file in files:
                        groups = list(index.groups(max(start, file.first), min(stop, file.first + file.images)))
                        rows = _rows(folder, file, record.column, groups, start, stop)
                        # Read in another thread, beside the decoding of the rows before.
                        with closing(prefetch(rows, 2)) as batches:
                            yield from chain.from_iterable(batches)
                else:
                    pieces = (
                        _small_files(folder, files)
                        if kind == "image"
                        else (piece for file in files for piece in _members(index, folder, file, start, stop))
                    )
                    with closing(read_ahead(pieces)) as read:
                        yield from chain.from_iterable(read)


def _small_files(folder: Location, files: Iterable[IndexedFile]) -> Iterator[Piece]:
    group: list[IndexedFile] = []
    size = 0
    for file in files:
        if group and (len(group) == SMALL_FILES or size + file.size > SMALL_BYTES):
            yield size, partial(_read_files, folder, group)
            group, size = [], 0
        group.append(file)
        size += file.size if file.size <= Limits.file_bytes else 0
    yield size, partial(_read_files, folder, group)


def _read_files(folder: Location, files: Sequence[IndexedFile]) -> list[EncodedImage]:
    return [EncodedImage(file.first, file.name, _read_file(folder, file)) for file in files]


def _read_file(folder: Location, file: IndexedFile) -> bytes | ImageError:
    if file.size > Limits.file_bytes:
        return too_large()
    try:
        return folder.child(file.name).read(file.version)
    except FILE_ERRORS as error:
        return _image_error(error)


def _members(index: ReferenceIndex, folder: Location, file: IndexedFile, start: int, stop: int) -> Iterator[Piece]:
    """Yield pieces of a few neighbouring images of a tar archive each."""
    group: list[TarMember] = []
    for member in index.members(max(start, file.first), min(stop, file.first + file.images)):
        if group:
            end = group[-1].start + group[-1].size
            if member.start - end > GAP_BYTES or member.start + member.size - group[0].start > PIECE_BYTES:
                yield _piece(folder, file, group)
                group = []
        group.append(member)
    if group:
        yield _piece(folder, file, group)


def _piece(folder: Location, file: IndexedFile, members: Sequence[TarMember]) -> Piece:
    first, end = members[0].start, members[-1].start + members[-1].size

    def read() -> list[EncodedImage]:
        try:
            data = folder.child(file.name).read_range(first, end, file.version)
        except FILE_ERRORS as error:
            problem = _image_error(error)
            return each(lambda _member: problem)
        return each(lambda member: data[member.start - first : member.start - first + member.size])

    def each(content: Callable[[TarMember], bytes | ImageError]) -> list[EncodedImage]:
        return [EncodedImage(member.place, f"{file.name}/{member.name}", content(member)) for member in members]

    if len(members) == 1 and members[0].size > Limits.file_bytes:
        return 0, lambda: each(lambda _member: too_large())
    return end - first, read


def _rows(
    folder: Location, file: IndexedFile, column: str | None, groups: Sequence[RowGroup], start: int, stop: int
) -> Generator[list[EncodedImage]]:
    from snf_models.datasets.parquet import read_groups  # noqa: PLC0415 - PyArrow loads slowly, and most do without

    done = max(start, file.first)
    stop = min(stop, file.first + file.images)
    try:
        with folder.child(file.name).open(file.version) as content:
            for batch in read_groups(content, file, column, groups, start, stop):
                done += len(batch)
                yield batch
    except FILE_ERRORS as error:
        yield from failed_rows(file, range(done, stop), _image_error(error))


def _image_error(error: FileChanged | FileUnreadable | LocationNotFound) -> ImageError:
    return unreadable(error.detail) if isinstance(error, FileUnreadable) else changed()


ReadProgress = Callable[[int], None]
"""A function that is called with the bytes of a file that were read. What it raises ends the work."""
LISTED_FIRST = 10_000  # files that are listed before the first is read, so that progress has a total
WINDOW_BYTES = 8 * 2**20  # bytes of one request for a part of an archive
COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar", ".npz", ".npy")
LABELS = ".cls"  # end of the names of class labels in WebDataset archives, where other texts end as everywhere else
OF_WRITERS = ("_SUCCESS", "_metadata", "_common_metadata", "_committed_", "_started_")
"""Beginnings of the names of files that Spark and others write beside Parquet files."""


class Listing(NamedTuple):
    """Files of a location, with names relative to it, or to the folder of a single file."""

    is_file: bool
    entries: Iterator[FileEntry]


def list_files(location: Location) -> Listing:
    file = location.stat()
    return Listing(is_file=False, entries=location.files()) if file is None else Listing(True, iter([file]))


def build_index(
    location: Location,
    path: Path,
    *,
    listing: Listing | None = None,
    column: str | None = None,
    by_request: bool = False,
    progress: Progress = no_progress,
) -> ReferenceRecord:
    """Index every file, whole or not at all, or count it as ignored or rejected; no image is decoded."""
    is_file, entries = list_files(location) if listing is None else listing
    folder = location.parent if is_file else location
    first = list(islice(entries, LISTED_FIRST))
    listed, done = sum(entry.size for entry in first), 0
    with new_path(path) as temporary, new_database(temporary, *SCHEMA) as index:
        builder = _Builder(folder, index, column)
        for entry in chain(first, entries):
            builder.add(entry, partial(_report, progress, done, max(listed, done + entry.size)))
            done += entry.size
        record = builder.record(location, is_file=is_file, by_request=by_request)
        index.execute("INSERT INTO record VALUES (?)", (record.model_dump_json(),))
    return record


def _report(progress: Progress, done: int, total: int, read: int) -> None:
    progress(done + read, total)


class _Builder:
    def __init__(self, folder: Location, index: sqlite3.Connection, column: str | None) -> None:
        self._folder = folder
        self._index = index
        self._column = column
        self._findings = Findings()
        self._content = hashlib.sha256(repr(column).encode())
        self._files: dict[FileKind, int] = {}
        self._bytes = self._images = 0

    def add(self, entry: FileEntry, progress: ReadProgress) -> None:
        progress(0)
        if is_no_image(entry.name) or entry.name.rpartition("/")[2].startswith(OF_WRITERS):
            self._findings.ignored += 1
        elif entry.problem is not None:
            self._findings.reject(_shown(entry.name), "unreadable-image", entry.problem)
        elif entry.name.lower().endswith(COMPRESSED):
            reason = (
                "expected image files, plain tar archives or Parquet files: a compressed archive is not read by range"
            )
            self._findings.reject(_shown(entry.name), "unsupported-archive", reason)
        elif (problem := self._name_problem(entry.name)) is not None:
            self._findings.reject(_shown(entry.name), "unsafe-name", problem)
        elif entry.name.lower().endswith(".tar"):
            self._store(entry, "tar", self._indexed(entry, partial(self._tar, progress=progress)))
        elif entry.name.lower().endswith(".parquet"):
            self._store(entry, "parquet", self._indexed(entry, self._parquet))
        else:
            self._store(entry, "image", 1)
        progress(entry.size)

    def record(self, location: Location, *, is_file: bool, by_request: bool) -> ReferenceRecord:
        """Return what was indexed; raise ``DatasetRefused`` if there is no image."""
        findings = self._findings
        if not self._images:
            detail = f"there is no image at {location}: {findings.ignored} files are skipped by their names"
            if not findings.ignored and not findings.files:
                detail = f"there is no file at {location}"
                if location.scheme != "file":
                    detail += ": expected the URL of a folder; check it and the endpoint in the environment"
            elif findings.files:
                first = findings.files[0]
                detail += f", and {findings.slugs.total()} cannot be read, the first, {first.path}: {first.reason}"
            raise DatasetRefused("dataset-too-small", "The dataset is too small", detail)
        return ReferenceRecord(
            location=location.url,
            is_file=is_file,
            column=self._column,
            by_request=by_request,
            created=datetime.now(UTC).replace(microsecond=0),
            images=self._images,
            files=self._files,
            bytes=self._bytes,
            ignored=findings.ignored,
            rejected=findings.slugs.total(),
            rejected_files=findings.files,
            rejected_by=dict(sorted(findings.slugs.items())),
            digest=self._content.hexdigest(),
        )

    def _store(self, entry: FileEntry, kind: FileKind, images: int) -> None:
        if not images:
            return
        self._index.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)",
            (self._images, images, kind, entry.name, entry.size, entry.version),
        )
        self._content.update(repr((kind, entry.name, entry.size, entry.version, images)).encode())
        self._files[kind] = self._files.get(kind, 0) + 1
        self._bytes += entry.size
        self._images += images

    def _name_problem(self, name: str) -> str | None:
        if path_text(name) != name:
            return "expected a name in UTF-8"
        try:
            self._folder.child(name)
        except LocationRefused as error:
            return error.detail
        return None

    def _indexed(self, entry: FileEntry, index: Callable[[FileEntry], int]) -> int:
        """Index the images of a file; reject one that is gone or cannot be read, and no other."""
        try:
            return index(entry)
        except FILE_ERRORS as error:
            self._findings.reject(_shown(entry.name), "unreadable-image", error.detail)
        self._index.execute("DELETE FROM members WHERE place >= ?", (self._images,))
        return 0

    def _tar(self, entry: FileEntry, progress: ReadProgress) -> int:
        """Index the images of an archive, of a damaged one those before the damage."""
        images = 0
        file = self._folder.child(entry.name)
        with closing(prefetch(_windows(file, entry), 2)) as pieces:
            stream = PieceStream(pieces)
            try:
                with archive_errors(entry.name):
                    for member in TarReader(stream):
                        while member.read(CHUNK):
                            progress(min(stream.read_bytes, entry.size))
                        if member.kind == "folder" and is_top(member.name):
                            continue
                        images += self._member(entry, member.name, member.kind, member.start, member.size, images)
            except DatasetRefused as error:
                reason = f"{error.detail}; {images} images before that are kept"
                self._findings.reject(_shown(entry.name), error.slug, reason)
        return images

    def _member(self, entry: FileEntry, given: str, kind: str, start: int, size: int, images: int) -> bool:
        """Index or count a member of an archive; return whether it is an image."""
        try:
            name = safe_path(given)
        except DatasetRefused as error:
            self._findings.reject(_shown(f"{entry.name}/{given}"), "unsafe-name", error.detail)
            return False
        if kind == "folder":
            return False
        if kind != "file":
            reason = "it is a link or a device, not a plain file"
            self._findings.reject(_shown(f"{entry.name}/{name}"), "unsafe-archive", reason)
            return False
        if is_no_image(name) or name.lower().endswith(LABELS):
            self._findings.ignored += 1
            return False
        self._index.execute("INSERT INTO members VALUES (?, ?, ?, ?)", (self._images + images, name, start, size))
        return True

    def _parquet(self, entry: FileEntry) -> int:
        """Index the rows; raise ``DatasetRefused`` if the named column is missing, reject a damaged file."""
        from snf_models.datasets.parquet import group_rows, open_parquet, sound_parquet  # noqa: PLC0415 - as above

        try:
            with (
                self._folder.child(entry.name).open(entry.version) as file,
                open_parquet(file, self._column, entry.name) as (parquet, column),
                sound_parquet(entry.name),
            ):
                groups = group_rows(parquet, column, entry.name, entry.size)
        except DatasetRefused as error:
            if self._column is not None and error.slug == "unsuitable-column":
                raise
            self._findings.reject(_shown(entry.name), error.slug, error.detail)
            return 0
        images = 0
        for number, rows in enumerate(groups):
            if rows:
                self._index.execute("INSERT INTO groups VALUES (?, ?, ?)", (self._images + images, rows, number))
            images += rows
        return images


def _windows(file: Location, entry: FileEntry) -> Generator[bytes]:
    for start in range(0, entry.size, WINDOW_BYTES):
        yield file.read_range(start, min(start + WINDOW_BYTES, entry.size), entry.version)


def _shown(name: str) -> str:
    return printable(path_text(name))
