from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from snf_models.archives.tar import Readable, TarReader
from snf_models.datasets.ingest.items import is_top, safe_path
from snf_models.datasets.ingest.members import CHUNK, archive_errors
from snf_models.datasets.prepared import Progress, no_progress
from snf_models.datasets.references.index import FileKind, ReferenceRecord, new_index
from snf_models.datasets.references.parquet_columns import group_rows, open_parquet, sound_parquet
from snf_models.datasets.references.referenced_files import FILE_ERRORS
from snf_models.datasets.report import Findings
from snf_models.errors import DatasetRefused
from snf_models.locations.entry import FileEntry
from snf_models.locations.errors import LocationRefused
from snf_models.locations.location import Location
from snf_models.naming import printable
from snf_models.prefetch import prefetch
from snf_runtime.images.policy import is_no_image, path_text

ReadProgress = Callable[[int], None]
"""A function that is called with the bytes of a file that were read. What it raises ends the work."""
LISTED_FIRST = 10_000
"""Files that are listed before the first is read, so that progress has a total."""
WINDOW_BYTES = 8 * 2**20
"""Bytes of one request for a part of an archive."""
COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar", ".npz", ".npy")
LABELS = ".cls"
"""End of the names of class labels in WebDataset archives, where other texts end as everywhere else."""
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
    with new_index(path) as index:
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
        with _Stream(file, entry) as stream:
            try:
                with archive_errors(entry.name):
                    for member in TarReader(stream):
                        while member.content.read(CHUNK):
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


class _Stream(Readable):
    """A file as a stream of large pieces, of which the next is fetched ahead."""

    def __init__(self, file: Location, entry: FileEntry) -> None:
        self._pieces = prefetch(_windows(file, entry), 2)
        self._piece = memoryview(b"")
        self.read_bytes = 0

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pieces.close()

    def read(self, size: int, /) -> bytes:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        data, self._piece = self._piece[:size], self._piece[size:]
        self.read_bytes += len(data)
        return bytes(data)


def _windows(file: Location, entry: FileEntry) -> Generator[bytes]:
    for start in range(0, entry.size, WINDOW_BYTES):
        yield file.read_range(start, min(start + WINDOW_BYTES, entry.size), entry.version)


def _shown(name: str) -> str:
    return printable(path_text(name))
