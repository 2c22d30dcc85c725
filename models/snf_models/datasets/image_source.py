"""Sources of named images, read by index range in a fixed order and in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets.reference_index import ReferenceIndex, read_record
from snf_models.datasets.references import ReferencedFiles
from snf_models.datasets.storage import INDEX, Storage
from snf_models.datasets.store import DatasetStore
from snf_models.errors import DatasetNotFound, ImageError
from snf_runtime.images.codec import decode_image
from snf_runtime.images.preprocessing import DecodedImage, Preprocessing, conform

NamedImage = tuple[str, DecodedImage | ImageError]
"""The name of an image, and the image or the reason why it cannot be scored."""


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
