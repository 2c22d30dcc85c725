"""Files of an uploaded dataset: one with all original images, and an SQLite index of their positions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from models.datasets.ingest.fingerprint import fingerprint
from models.datasets.ingest.items import ImageFile, ImagePixels
from models.datasets.ingest.limits import DiskQuota
from models.datasets.ingest.near_duplicates import KeptHashes, NearDuplicates
from models.datasets.references.index import REFERENCE
from models.datasets.references.originals import ReferencedOriginals
from models.errors import ImageError
from models.images.provenance import ARRAY
from snf_runtime.images.file_decoding import open_image
from snf_runtime.images.preprocessing import OpenedImage, opened_pixels

ORIGINALS = "originals.bin"
INDEX = "index.sqlite"
SCHEMA = """
CREATE TABLE images (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    "group" TEXT,
    format TEXT NOT NULL,
    mode TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    grey INTEGER NOT NULL,   -- whether the pixels have no colour, whatever the mode
    digest BLOB NOT NULL,    -- SHA-256 of the pixels
    dhash INTEGER NOT NULL,  -- signed, as SQLite's integers are
    start INTEGER NOT NULL,  -- where the original begins in originals.bin, or its place in a dataset by reference
    bytes INTEGER NOT NULL,
    part INTEGER,            -- 0 train, 1 statistics, 2 calibration
    fold INTEGER             -- of part 1 where it serves calibration, too
)
"""
ROW_BYTES = 256
"""Approximate size of a row of the table in bytes."""


@dataclass(frozen=True)
class Stored:
    """Index entry of an image of a dataset: its path, format, size and position.

    ``start`` is its position in ``originals.bin`` in bytes, or its index in a dataset by reference. ``bytes`` is its
    length.

    The original is an encoded file, or the pixels, ``(C, H, W)``, of an array.
    """

    path: str
    format: str
    mode: str
    width: int
    height: int
    start: int
    bytes: int


class StorageWriter:
    """Writer that adds images to the files of a new dataset.

    It writes the image bytes to ``originals.bin`` and their positions to an SQLite index.

    ``index`` is the connection to the index; its owner commits it. Of a dataset by reference there are no originals.
    """

    def __init__(
        self, originals: BinaryIO | None, index: sqlite3.Connection, room: DiskQuota, near_duplicates: NearDuplicates
    ) -> None:
        self._originals = originals
        self._room = room
        self._kept = KeptHashes() if near_duplicates == "drop" else None
        self.index = index

    def add(self, item: ImageFile | ImagePixels, place: int = 0) -> bool:
        """Store an image of an upload; return False if its path is already taken.

        Then nothing is stored. Returns True otherwise.

        ``place`` is the place of the image in a dataset by reference, whose originals are not stored.
        Raises ``ImageError`` where it cannot be decoded or is left out as a near duplicate, and ``StorageFull``.
        """
        if isinstance(item, ImagePixels):
            opened, data, group = opened_pixels(item.pixels), np.ascontiguousarray(item.pixels).tobytes(), item.group
        else:
            opened, data, group = open_image(item.data), item.data, None
        seen = fingerprint(opened)
        if self._kept is not None and (twin := self._kept.twin(seen.dhash)) is not None:
            raise ImageError("near-duplicate", "A near duplicate is left out", f"it is a near duplicate of {twin}")
        self._room.take(ROW_BYTES + (0 if self._originals is None else len(data)))
        row = (
            item.path, group, opened.format or ARRAY, seen.mode, seen.width, seen.height, seen.grey, seen.digest,
            seen.dhash - 2**63, place if self._originals is None else self._originals.tell(), len(data),
        )  # fmt: skip
        added = self.index.execute(
            'INSERT OR IGNORE INTO images (path, "group", format, mode, width, height, grey, digest, dhash, start,'
            " bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        ).rowcount
        if not added:
            return False
        if self._originals is not None:
            self._originals.write(data)
        if self._kept is not None:
            self._kept.add(seen.dhash, item.path)
        return True

    def different_images(self) -> int:
        """Return the number of stored images with different pixels: equal images count once."""
        count: int = self.index.execute("SELECT count(DISTINCT digest) FROM images").fetchone()[0]
        return count


@contextmanager
def write_storage(
    folder: Path, room: DiskQuota, near_duplicates: NearDuplicates = "keep", *, copies: bool = True
) -> Iterator[StorageWriter]:
    """Create the index and the originals file of a new dataset, and yield a writer that adds images to them.

    The files are complete after the ``with`` block.

    Without ``copies`` there is no file of originals.
    """
    # One writer in a folder of its own: no journal and no locks, which network file systems lack.
    uri = f"{(folder.absolute() / INDEX).as_uri()}?nolock=1"
    with (
        (folder / ORIGINALS).open("xb") if copies else nullcontext() as originals,
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as index,
    ):
        index.execute("PRAGMA journal_mode = OFF")
        index.execute("PRAGMA synchronous = OFF")
        index.execute("BEGIN")
        index.execute(SCHEMA)
        yield StorageWriter(originals, index, room, near_duplicates)
        index.execute("COMMIT")


class Storage:
    """Reader of the stored images of a dataset.

    An SQLite index has their positions in ``originals.bin``.

    Of a dataset by reference they are read from where they are.
    """

    def __init__(self, original: Callable[[int, int], bytes], index: sqlite3.Connection) -> None:
        self._original = original
        self.index = index

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        """Open the dataset in a folder for reading within a ``with`` block.

        Yields a reader, whose files are closed at the end of the block.
        """
        with closing(open_index(folder)) as index:
            if (folder / REFERENCE).exists():
                with closing(ReferencedOriginals(folder / REFERENCE)) as referenced:
                    yield cls(lambda place, _size: referenced.read(place), index)
                return
            with (folder / ORIGINALS).open("rb") as originals:
                yield cls(partial(_read, originals), index)

    def images(self, order: str) -> Iterator[Stored]:
        """Yield the record of each image in the dataset's index, sorted by ``order``.

        The record has the path, position, format and size of the image. The order is an SQL expression such as
        ``part, path``.
        """
        columns = "path, format, mode, width, height, start, bytes"
        for row in self.index.execute(f"SELECT {columns} FROM images ORDER BY {order}"):  # noqa: S608  # our own words
            yield Stored(*row)

    def ranks(self, order: str) -> Iterator[int]:
        """Yield, for each image in storage order, its position when the images are sorted by ``order``.

        Positions count from 0.

        The order is an SQL expression. The images come in the order of their ``start``.
        """
        ranked = f"SELECT start, row_number() OVER (ORDER BY {order}) - 1 AS rank FROM images"  # noqa: S608
        for (rank,) in self.index.execute(f"SELECT rank FROM ({ranked}) ORDER BY start"):  # noqa: S608  # our own words
            yield rank

    def sizes(self, order: str) -> NDArray[np.int64]:
        """Return each image's height and width in pixels, ``(n, 2)``; the SQL expression ``order`` sorts the images."""
        rows = self.index.execute(f"SELECT height, width FROM images ORDER BY {order}")  # noqa: S608  # our own words
        return np.array(rows.fetchall(), dtype=np.int64).reshape(-1, 2)

    def folds(self) -> list[int]:
        """Return the cross-conformal fold of each held-out (non-training) image in a small dataset.

        These images serve for anomaly statistics and for calibration.

        Folds are 0 to 4. The images are ordered by path.
        """
        return [fold for (fold,) in self.index.execute("SELECT fold FROM images WHERE part = 1 ORDER BY path")]

    def image(self, stored: Stored) -> OpenedImage:
        """Return a stored image in its original size, turned upright by its EXIF orientation.

        Raises ``ImageError`` if the image is damaged.
        """
        data = self._original(stored.start, stored.bytes)
        if stored.format != ARRAY:
            # It was accepted, maybe by an earlier version with other limits on the time of decoding.
            return open_image(data, any_cost=True)
        return opened_pixels(np.frombuffer(data, np.uint8).reshape(-1, stored.height, stored.width))


def _read(originals: BinaryIO, start: int, size: int) -> bytes:
    originals.seek(start)
    return originals.read(size)


def open_index(folder: Path) -> sqlite3.Connection:
    """Return a read-only SQLite connection to the index of the images in the folder of a complete dataset.

    It takes no locks, as the index never changes.
    """
    return sqlite3.connect(f"{(folder.absolute() / INDEX).as_uri()}?mode=ro&immutable=1", uri=True)
