"""Files of a dataset: all original images in one, and an SQLite index of their positions."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_models.datasets.reference_index import REFERENCE, EncodedImage
from snf_models.datasets.references import ReferencedFiles
from snf_models.datasets.report import KeptHashes, NearDuplicates
from snf_models.datasets.upload_items import ImageFile, ImagePixels
from snf_models.disk import DiskQuota, new_database, open_database
from snf_models.errors import DatasetNotFound, ImageError
from snf_models.images import ARRAY
from snf_runtime.images.codec import open_image
from snf_runtime.images.preprocessing import OpenedImage, is_grey, opaque, opened_pixels, to_eight_bits


@dataclass(frozen=True)
class Fingerprint:
    """Images with equal digests are duplicates, those with similar ``dhash`` near duplicates."""

    mode: str  # as Pillow names it
    width: int
    height: int
    grey: bool  # whether the pixels have no colour, whatever the mode
    digest: bytes  # SHA-256 of size and pixels; that of the grey image for a colour file with grey pixels
    dhash: int  # 64 bits


def fingerprint(opened: OpenedImage) -> Fingerprint:
    """Compute the fingerprint; raise ``ImageError`` for an image with transparent pixels."""
    image = opened.image
    plain = image if image.mode == "I;16" else opaque(image)
    grey = is_grey(plain, opened.format)
    if grey and plain.mode == "RGB":
        plain = plain.convert("L")
    content = hashlib.sha256(f"{plain.mode} {plain.width} {plain.height} ".encode())
    content.update(plain.tobytes())
    visible = brightened(plain) if plain.mode == "I;16" else plain
    return Fingerprint(opened.mode, image.width, image.height, grey, content.digest(), difference_hash(visible))


def brightened(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey image to 8 bits so that its brightest pixel is white, unless no value is above 255."""
    return to_eight_bits(image, max(256, int(np.asarray(image).max()) + 1))


def difference_hash(image: Image.Image) -> int:
    """Each bit says whether a pixel of the grey image at 9x8 pixels is darker than its right neighbour."""
    shrunken = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(shrunken[:, :-1] < shrunken[:, 1:]).tobytes(), "big")


MAX_AHEAD = 2**20
"""Most images of one range, which doubles while images are read in order: each rereads the start of its row group."""


class ReferencedOriginals:
    """Reader of encoded images, which reads whole ranges ahead where images are read in order."""

    def __init__(self, path: Path) -> None:
        self._files = ReferencedFiles(path)
        self._range: Generator[EncodedImage] | None = None
        self._next = self._stop = 0
        self._length = 1

    def read(self, place: int) -> bytes:
        """Return an encoded image; raise ``ImageError``, ``LocationUnavailable`` or ``DatasetNotFound``."""
        if self._range is None or not self._next <= place < self._stop:
            in_order = self._next <= place < self._stop + self._length
            self._length = min(2 * self._length, MAX_AHEAD) if in_order else 1
            self.close()
            self._range = self._files.read(place, place + self._length)
            self._next, self._stop = place, place + self._length
        for image in self._range:
            self._next = image.place + 1
            if image.place == place:
                if isinstance(image.content, ImageError):
                    raise image.content
                return image.content
        raise DatasetNotFound(f"expected an image at the place {place} of the dataset, got none")

    def close(self) -> None:
        if self._range is not None:
            self._range.close()
            self._range = None


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
ROW_BYTES = 256  # approximate size of a row of the table in bytes


@dataclass(frozen=True)
class Stored:
    """An image of a dataset: an encoded file, or the pixels ``(C, H, W)`` of an array."""

    path: str
    format: str
    mode: str
    width: int
    height: int
    start: int  # position in ``originals.bin`` in bytes, or index in a dataset by reference
    bytes: int


class StorageWriter:
    def __init__(
        self, originals: BinaryIO | None, index: sqlite3.Connection, room: DiskQuota, near_duplicates: NearDuplicates
    ) -> None:
        self._originals = originals
        self._room = room
        self._kept = KeptHashes() if near_duplicates == "drop" else None
        self.index = index

    def add(self, item: ImageFile | ImagePixels, place: int = 0) -> bool:
        """Store an image; return False if its path is taken. Raises ``ImageError`` for near duplicates, too."""
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
        count: int = self.index.execute("SELECT count(DISTINCT digest) FROM images").fetchone()[0]
        return count


@contextmanager
def write_storage(
    folder: Path, room: DiskQuota, near_duplicates: NearDuplicates = "keep", *, copies: bool = True
) -> Iterator[StorageWriter]:
    """Create the files of a dataset, complete after the block; without ``copies`` there are no originals."""
    with (
        (folder / ORIGINALS).open("xb") if copies else nullcontext() as originals,
        new_database(folder / INDEX, SCHEMA) as index,
    ):
        yield StorageWriter(originals, index, room, near_duplicates)


class Storage:
    """Reader of stored images; those of a dataset by reference are read from where they are."""

    def __init__(self, original: Callable[[int, int], bytes], index: sqlite3.Connection) -> None:
        self._original = original
        self.index = index

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        with closing(open_index(folder)) as index:
            if (folder / REFERENCE).exists():
                with closing(ReferencedOriginals(folder / REFERENCE)) as referenced:
                    yield cls(lambda place, _size: referenced.read(place), index)
                return
            with (folder / ORIGINALS).open("rb") as originals:
                yield cls(partial(_read, originals), index)

    def images(self, order: str) -> Iterator[Stored]:
        """``order`` is an SQL expression such as ``part, path``."""
        columns = "path, format, mode, width, height, start, bytes"
        for row in self.index.execute(f"SELECT {columns} FROM images ORDER BY {order}"):  # noqa: S608  # our own words
            yield Stored(*row)

    def ranks(self, order: str) -> Iterator[int]:
        """Yield for each image, by ``start``, its position from 0 in the given order."""
        ranked = f"SELECT start, row_number() OVER (ORDER BY {order}) - 1 AS rank FROM images"  # noqa: S608
        for (rank,) in self.index.execute(f"SELECT rank FROM ({ranked}) ORDER BY start"):  # noqa: S608  # our own words
            yield rank

    def sizes(self, order: str) -> NDArray[np.int64]:
        rows = self.index.execute(f"SELECT height, width FROM images ORDER BY {order}")  # noqa: S608  # our own words
        return np.array(rows.fetchall(), dtype=np.int64).reshape(-1, 2)

    def folds(self) -> list[int]:
        return [fold for (fold,) in self.index.execute("SELECT fold FROM images WHERE part = 1 ORDER BY path")]

    def image(self, stored: Stored) -> OpenedImage:
        data = self._original(stored.start, stored.bytes)
        if stored.format != ARRAY:
            # It was accepted, maybe by an earlier version with other limits on the time of decoding.
            return open_image(data, any_cost=True)
        return opened_pixels(np.frombuffer(data, np.uint8).reshape(-1, stored.height, stored.width))


def _read(originals: BinaryIO, start: int, size: int) -> bytes:
    originals.seek(start)
    return originals.read(size)


def open_index(folder: Path) -> sqlite3.Connection:
    return open_database(folder / INDEX)
