"""Images to score by range, in a fixed order and one at a time: memory does not grow with their number."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from models.atomic_files import sha256_file
from models.datasets.builtin import builtin_file
from models.datasets.catalogue import dataset_names
from models.datasets.ingest.items import refused
from models.datasets.ingest.limits import Limits
from models.datasets.ingest.members import archive_errors
from models.datasets.storage import ORIGINALS, Storage
from models.datasets.store import DatasetStore
from models.errors import DatasetNotFound, ImageError
from models.images.codec import DecodedImage, Preprocessing, decode_image
from models.images.npy import npy_header
from models.images.preprocessing import conform, conform_pixels

ARRAYS = ("x_train", "x_test")
MAX_FILE_BYTES = Limits().file_bytes

Found = tuple[str, DecodedImage | ImageError]
"""The path of an image, and the image or why it cannot be scored."""


class ImageSource(Protocol):
    """``count`` images in a fixed order; ``digest`` tells them from any others."""

    @property
    def count(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def read(self, start: int, stop: int) -> Iterator[Found]:
        """Yield images ``start`` to ``stop - 1``; one that is bad takes its place with its ``ImageError``."""
        ...


def open_source(
    name: str, data_dir: Path | None, store: DatasetStore | None, preprocessing: Preprocessing
) -> ImageSource:
    """Return all images of a dataset as a model sees them. Raises ``DatasetNotFound``, ``DatasetRefused``."""
    path = builtin_file(name, data_dir)
    if path is not None:
        return BuiltinImages(path, preprocessing)
    if store is None or name not in store.names():
        raise DatasetNotFound(f"no dataset {name!r} here, there are: {', '.join(dataset_names(data_dir, store))}")
    return StoredImages(store, name, preprocessing)


class ImageFiles:
    """Image files in the order given. Digest: paths, sizes and times of change."""

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self._paths = paths
        self._preprocessing = preprocessing
        self.count = len(paths)
        content = hashlib.sha256()
        for path in paths:
            content.update(f"{path_text(path)}\0{_stamp(path)}\0".encode())
        self.digest = content.hexdigest()

    def read(self, start: int, stop: int) -> Iterator[Found]:
        """Yield the files of a range; the path of one is as it was given."""
        for path in self._paths[start:stop]:
            try:
                yield path_text(path), decode_image(read_file(path), self._preprocessing)
            except ImageError as error:
                yield path_text(path), error


class StoredImages:
    """A user's dataset, in the order in which it was stored. Digest: pixels, paths and kinds of the files.

    Raises ``DatasetNotFound``, when it is read too: it may have been deleted meanwhile.
    """

    def __init__(self, store: DatasetStore, name: str, preprocessing: Preprocessing) -> None:
        self.count = store.report(name).images
        self._name = name
        self._folder = store.root / name
        self._preprocessing = preprocessing
        self._version = _stamp(self._folder / ORIGINALS)
        content = hashlib.sha256()
        with self._open() as storage:
            columns = "path, format, mode, width, height, bytes, digest"
            for row in storage.index.execute(f"SELECT {columns} FROM images ORDER BY id"):  # noqa: S608  # our own words
                content.update(repr(row).encode())
        self.digest = content.hexdigest()

    def read(self, start: int, stop: int) -> Iterator[Found]:
        """Decode the originals of a range."""
        with self._open() as storage:
            for stored in storage.images(f"id LIMIT {stop - start} OFFSET {start}"):
                try:
                    yield stored.path, conform(storage.image(stored), self._preprocessing)
                except ImageError as error:
                    yield stored.path, error

    @contextmanager
    def _open(self) -> Iterator[Storage]:
        # A dataset never changes, but its name may be deleted and given to another.
        if self._version is None or _stamp(self._folder / ORIGINALS) != self._version:
            raise DatasetNotFound(f"dataset {self._name!r} was deleted meanwhile")
        with Storage.open(self._folder) as storage:
            yield storage


class BuiltinImages:
    """A built-in dataset: its training images, then those for tests, each in the file's order. Digest: the file's.

    Raises ``DatasetRefused`` for a file that is damaged or something else.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self._path = path
        self._preprocessing = preprocessing
        self._counts = {}
        with archive_errors(path.name), zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            for name in ARRAYS:
                if name == ARRAYS[0] or f"{name}.npy" in there:
                    with _array(archive, name) as (shape, _):
                        self._counts[name] = shape[0]
        self.count = sum(self._counts.values())
        self.digest = sha256_file(path)

    def read(self, start: int, stop: int) -> Iterator[Found]:
        """Yield images of a range with paths like ``x_train/00017``."""
        first = 0
        for name, count in self._counts.items():
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                yield from self._images(name, low, high)
            first += count

    def _images(self, name: str, low: int, high: int) -> Iterator[Found]:
        digits = len(str(self._counts[name] - 1))
        with (
            archive_errors(self._path.name),
            zipfile.ZipFile(self._path) as archive,
            _array(archive, name) as (shape, file),
        ):
            _, height, width, *_ = shape
            size = math.prod(shape[1:])
            file.seek(low * size, os.SEEK_CUR)
            for index in range(low, high):
                data = file.read(size)
                if len(data) < size:
                    raise refused("malformed-array", f"{self._path.name}: {name} ends in image {index}")
                pixels = np.frombuffer(data, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
                path = f"{name}/{index:0{digits}d}"
                try:
                    yield path, conform_pixels(pixels, self._preprocessing)
                except ImageError as error:
                    yield path, error


@contextmanager
def _array(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[tuple[int, ...], IO[bytes]]]:
    """Open an array of images: its shape, and the file at the first pixel. Raises ``DatasetRefused``."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran_order, dtype = npy_header(file)
        if dtype != np.uint8 or len(shape) not in (3, 4) or fortran_order:
            order = "Fortran" if fortran_order else "C"
            raise refused(
                "malformed-array",
                f"{name}: expected uint8 (N, H, W) or (N, H, W, C) in C order, got {dtype} {shape} in {order} order",
            )
        yield shape, file


def read_file(path: Path) -> bytes:
    """Return what is in an image file. Raises ``ImageError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError("unreadable-image", "The file cannot be read", error.strerror or str(error)) from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError("file-too-large", "The file is too large", f"at most {MAX_FILE_BYTES} bytes are taken")
    return data


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and time of change in ns of a file, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def path_text(path: Path) -> str:
    """Return a path as UTF-8, which the names of files need not be."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
