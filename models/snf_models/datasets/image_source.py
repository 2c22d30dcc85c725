"""Sources of named images, read by range in bounded memory: datasets, image files, and files at a location."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets.dataset import Progress, no_progress
from snf_models.datasets.prepared import LEFTOVER_SECONDS, remove_unused, share
from snf_models.datasets.references import SCHEMA as INDEX_SCHEMA
from snf_models.datasets.references import (
    Listing,
    ReferencedFiles,
    ReferenceIndex,
    build_index,
    list_files,
    read_record,
)
from snf_models.datasets.storage import INDEX, Storage
from snf_models.datasets.store import DatasetStore, builtin_arrays, builtin_file, check_stored
from snf_models.disk import remove_leftovers, sha256_file
from snf_models.errors import DatasetNotFound, ImageError
from snf_models.locations.disk import FileEntry
from snf_models.locations.location import Location
from snf_runtime.images.batch import NamedImage
from snf_runtime.images.codec import decode_image
from snf_runtime.images.files import path_text, read_file
from snf_runtime.images.preprocessing import Preprocessing, conform, conform_pixels


class ImageSource(Protocol):
    """A fixed sequence of images, each converted to the input of one model."""

    @property
    def count(self) -> int: ...

    @property
    def digest(self) -> str:
        """Two sources with different images have different digests."""
        ...

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        """Yield name and image of ``start`` to ``stop - 1``; an ``ImageError`` stands for an unusable image."""
        ...


class StoredImages:
    """Images of a user's dataset, decoded when read; ``rows`` rise. Raises ``DatasetNotFound`` once it is deleted."""

    def __init__(
        self,
        store: DatasetStore,
        name: str,
        preprocessing: Preprocessing,
        order: Literal["id", "path"] = "id",
        rows: Sequence[int] | None = None,
    ) -> None:
        self._rows = range(store.report(name).images) if rows is None else rows
        self._order = order
        self._name = name
        self._folder = store.root / name
        self._preprocessing = preprocessing
        self._version = file_stamp(self._folder / INDEX)

    @property
    def count(self) -> int:
        return len(self._rows)

    @cached_property
    def digest(self) -> str:
        content = hashlib.sha256()
        columns = "path, format, mode, width, height, bytes, digest"
        with self._open() as storage:
            for row in storage.index.execute(f"SELECT {columns} FROM images ORDER BY id"):  # noqa: S608  # our own words
                content.update(repr(row).encode())
        return content.hexdigest()

    @property
    def names(self) -> list[str]:
        with self._open() as storage:
            paths = [stored.path for stored in storage.images(self._order)]
        return [paths[row] for row in self._rows]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width of each original in pixels, ``(n, 2)``."""
        with self._open() as storage:
            return storage.sizes(self._order)[list(self._rows)]

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        rows = self._rows[start:stop]
        if not rows:
            return
        first, wanted = rows[0], frozenset(rows)
        with self._open() as storage:
            all_stored = storage.images(f"{self._order} LIMIT {rows[-1] + 1 - first} OFFSET {first}")
            for row, stored in enumerate(all_stored, first):
                if row not in wanted:
                    continue
                try:
                    yield stored.path, conform(storage.image(stored), self._preprocessing)
                except ImageError as error:
                    yield stored.path, error

    def chosen(self, places: Sequence[int]) -> StoredImages:
        source = copy(self)
        source._rows = [self._rows[place] for place in places]
        return source

    @contextmanager
    def _open(self) -> Iterator[Storage]:
        # A dataset never changes, but another one may get its name once it is deleted.
        if self._version is None or file_stamp(self._folder / INDEX) != self._version:
            raise DatasetNotFound(f"dataset {self._name!r} was deleted meanwhile")
        with Storage.open(self._folder) as storage:
            yield storage


def file_stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class ReferencedImages:
    """Image source that can be pickled; where it is unpickled, the index must be at the same path."""

    def __init__(self, index: Path, preprocessing: Preprocessing) -> None:
        record = read_record(index)
        self._index = index
        self._stamp = file_stamp(index)
        self._preprocessing = preprocessing
        self.count = record.images
        self.digest = record.digest

    @cached_property
    def largest_group(self) -> int:
        """Images of the largest row group, which is always read from its start; 1 without Parquet files."""
        with ReferenceIndex.open(self._index) as index:
            return index.largest_group()

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        """Yield images or their errors; raise ``LocationUnavailable`` where the location cannot be reached."""
        if file_stamp(self._index) != self._stamp:
            raise DatasetNotFound(f"the dataset of the index {self._index} was deleted meanwhile")
        with closing(ReferencedFiles(self._index).read(start, min(stop, self.count))) as files:
            for _, name, content in files:
                if isinstance(content, ImageError):
                    yield name, content
                    continue
                try:
                    yield name, decode_image(content, self._preprocessing)
                except ImageError as error:
                    yield name, error


PLACE_DIGITS = 16
"""Digits of the hash of a location in the name of its index."""
KEPT_INDEXES = 2
"""Most indexes of a location, unless more are in use: the files of a location may be as before again."""
SPOOL_BYTES = 16 * 2**20
"""Bytes of a list of files that are held in memory; a longer one is in a temporary file."""
LISTED_AT_ONCE = 1000
"""Files that are listed between two reports of progress."""


def open_source(
    name: str, data_dir: Path | None, store: DatasetStore | None, preprocessing: Preprocessing
) -> ImageSource:
    """Open a dataset for a model; raise ``DatasetNotFound``, or ``DatasetUnfit`` for a damaged file."""
    path = builtin_file(name, data_dir)
    if path is not None:
        return BuiltinImages(path, preprocessing)
    store = check_stored(name, data_dir, store)
    index = store.reference_index(name)
    return StoredImages(store, name, preprocessing) if index is None else ReferencedImages(index, preprocessing)


@dataclass(frozen=True)
class DatasetImages:
    """Picklable handle of a dataset on this machine."""

    name: str
    data_dir: Path | None
    datasets_dir: Path

    def open(self, preprocessing: Preprocessing) -> ImageSource:
        """Open the dataset; raise as :func:`open_source`."""
        return open_source(self.name, self.data_dir, DatasetStore(self.datasets_dir), preprocessing)


@dataclass(frozen=True)
class LocationImages:
    """Picklable handle of an index of :func:`index_location`, for processes of this machine."""

    index: Path

    def open(self, preprocessing: Preprocessing) -> ImageSource:
        """Open the images; raise ``DatasetNotFound`` if the index was deleted."""
        return ReferencedImages(self.index, preprocessing)


def index_location(location: Location, cache: Path, progress: Progress = no_progress) -> LocationImages:
    """Index a location, or reuse the index if no file has changed. The index exists as long as the handle."""
    place = hashlib.sha256(repr((INDEX_SCHEMA, location.url)).encode()).hexdigest()[:PLACE_DIGITS]
    content = hashlib.sha256()
    listed = 0
    is_file, entries = list_files(location)
    # Listed once: a file that is added meanwhile must not be in the index without being in its name.
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, "w+", encoding="ascii") as spool:
        for number, entry in enumerate(entries):
            line = json.dumps(entry)
            content.update(line.encode())
            spool.write(f"{line}\n")
            listed += entry.size
            if number % LISTED_AT_ONCE == 0:
                progress(0, listed)
        path = cache / f"{place}-{content.hexdigest()}.sqlite"
        lock = share(path)
        if lock is None:
            spool.seek(0)
            again = Listing(is_file, (FileEntry(*json.loads(line)) for line in spool))
            build_index(location, path, listing=again, progress=progress)
            lock = share(path)
            remove_leftovers(cache, LEFTOVER_SECONDS)
            _drop_older(cache, place)
    images = LocationImages(path)
    if lock is not None:
        finalize(images, os.close, lock)
    return images


def _drop_older(cache: Path, place: str) -> None:
    """Delete the oldest indexes of a location, so that two are left, or all that are in use."""
    indexes: list[tuple[int, Path]] = []
    for path in cache.glob(f"{place}-*.sqlite"):
        with suppress(FileNotFoundError):  # another process deleted it
            indexes.append((path.stat().st_mtime_ns, path))
    surplus = len(indexes) - KEPT_INDEXES
    for _, path in sorted(indexes):
        if surplus > 0:
            surplus -= remove_unused(path, path.unlink)


@dataclass(frozen=True)
class ImageFiles:
    """Image files in the given order, and their images for the model of a preprocessing."""

    paths: Sequence[Path]
    preprocessing: Preprocessing | None = None  # None in the picklable handle

    @property
    def count(self) -> int:
        return len(self.paths)

    @cached_property
    def digest(self) -> str:
        """Digest of the paths, sizes and times of change."""
        content = hashlib.sha256()
        for path in self.paths:
            content.update(f"{path_text(path)}\0{file_stamp(path)}\0".encode())
        return content.hexdigest()

    def open(self, preprocessing: Preprocessing) -> ImageFiles:
        return replace(self, preprocessing=preprocessing)

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        assert self.preprocessing is not None
        for path in self.paths[start:stop]:
            try:
                yield path_text(path), decode_image(read_file(path), self.preprocessing)
            except ImageError as error:
                yield path_text(path), error


class BuiltinImages:
    """Images of a built-in dataset, those of training first; raises ``DatasetUnfit`` for a damaged file."""

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self._arrays = builtin_arrays(path)
        self._preprocessing = preprocessing
        self.count = sum(map(len, self._arrays.values()))
        self.digest = sha256_file(path)

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        """Yield images with names such as ``x_train/00017``."""
        first = 0
        for name, images in self._arrays.items():
            digits = len(str(len(images) - 1))
            for row in range(max(start - first, 0), min(stop - first, len(images))):
                path = f"{name}/{row:0{digits}d}"
                try:
                    yield path, conform_pixels(images[row], self._preprocessing)
                except ImageError as error:
                    yield path, error
            first += len(images)
