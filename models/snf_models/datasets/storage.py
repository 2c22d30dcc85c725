"""Files of a dataset: all original images in one, an SQLite index of their positions, and the report on them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_client.schemas.datasets import DatasetReport, Duplicates, ImageFacts, SizeCount, Split
from snf_models.datasets.references import REFERENCE, EncodedImage, ReferencedFiles
from snf_models.datasets.uploads import LISTED, Findings, ImageFile, ImagePixels
from snf_models.disk import DiskQuota, new_database, open_database
from snf_models.errors import DatasetNotFound, ImageError
from snf_models.images import ARRAY
from snf_runtime.images.codec import open_image
from snf_runtime.images.preprocessing import GREY_MODES, OpenedImage, is_grey, opaque, opened_pixels, to_eight_bits

NearDuplicates = Literal["keep", "drop"]
DISTANCE = 3
BANDS = (13, 13, 13, 13, 12)
"""Bits of the five parts of a hash. Two hashes that differ in 3 bits have at least two equal parts."""
MAX_NEIGHBOURS = 512  # most neighbours with which a hash is compared, among those that share two parts with it


class KeptHashes:
    def __init__(self) -> None:
        self._hashes = np.empty(1024, dtype=np.uint64)
        self._paths: list[str] = []

    def twin(self, dhash: int) -> str | None:
        """Return the path of the first kept image whose hash differs in at most 3 bits, or None.

        >>> kept = KeptHashes()
        >>> kept.add(0b0, "a.png")
        >>> kept.twin(0b111), kept.twin(0b1111)
        ('a.png', None)
        """
        distances = np.bitwise_count(self._hashes[: len(self._paths)] ^ np.uint64(dhash))
        near = np.flatnonzero(distances <= DISTANCE)
        return self._paths[near[0]] if len(near) else None

    def add(self, dhash: int, path: str) -> None:
        if len(self._paths) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._paths)] = dhash
        self._paths.append(path)


def near_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return index pairs, ``(pairs, 2)``, of hashes that differ in at most 3 bits, in O(N log N) for spread ones.

    >>> near_pairs(np.array([0b0, 0b111, 0b1111], dtype=np.uint64)).tolist()
    [[0, 1], [1, 2]]
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for mask in _masks():
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        left = np.arange(len(hashes))
        for offset in range(1, MAX_NEIGHBOURS + 1):
            left = left[left + offset < len(hashes)]
            left = left[keys[left] == keys[left + offset]]
            if not len(left):
                break
            near = left[np.bitwise_count(sorted_hashes[left] ^ sorted_hashes[left + offset]) <= DISTANCE]
            pairs.append(np.sort(np.stack([order[near], order[near + offset]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _masks() -> list[np.uint64]:
    ends = np.cumsum(BANDS)
    parts = [((1 << int(size)) - 1) << int(end - size) for size, end in zip(BANDS, ends, strict=True)]
    return [np.uint64(first | second) for first, second in combinations(parts, 2)]


EXAMPLES = 20


def make_report(name: str, index: sqlite3.Connection, findings: Findings, split: Split) -> DatasetReport:
    count, total, coloured, smallest_w, smallest_h, largest_w, largest_h = index.execute(
        "SELECT count(*), sum(bytes), sum(NOT grey), min(width), min(height), max(width), max(height) FROM images"
    ).fetchone()
    (median,) = index.execute(
        "SELECT min(width, height) FROM images ORDER BY 1 LIMIT 1 OFFSET ?", ((count - 1) // 2,)
    ).fetchone()
    # A file without colour channels must be converted to serve as colour.
    modes = _histogram(index, "mode")
    grey_files = sum(count for mode, count in modes.items() if mode in GREY_MODES)
    facts = ImageFacts(
        smallest=(smallest_w, smallest_h),
        largest=(largest_w, largest_h),
        median_shorter_side=median,
        coloured=coloured > 0,
        channels=1 if coloured == 0 else 3 if grey_files == 0 else None,
    )
    sizes = index.execute(
        f"SELECT width, height, count(*) FROM images GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {LISTED}"  # noqa: S608
    )
    near = _near(index)
    return DatasetReport(
        name=name,
        created=datetime.now(UTC).replace(microsecond=0),
        images=count,
        bytes=total,
        rejected=findings.slugs.total(),
        rejected_files=findings.files,
        rejected_by=dict(sorted(findings.slugs.items())),
        ignored=findings.ignored,
        formats=_histogram(index, "format"),
        modes=modes,
        coloured=coloured,
        sizes=[SizeCount(width=width, height=height, images=images) for width, height, images in sizes],
        different_sizes=distinct(index, "width * 65536 + height"),
        facts=facts,
        duplicates=_exact(index),
        near_duplicates=near,
        groups=_histogram(index, '"group"'),
        different_groups=distinct(index, '"group"'),
        split=split,
        notes=_notes(count, split, findings, facts, modes, near),
    )


def _notes(
    count: int, split: Split, findings: Findings, facts: ImageFacts, modes: dict[str, int], near: Duplicates
) -> list[str]:
    notes = [f"split {split.rule.replace('-', ' ')} as {split.parts}: {split.reason}"]
    if split.folds:
        notes.append(
            f"{count} images are few: p-values of pixel models rest on {split.statistics} of them, by "
            f"{len(split.folds)}-fold cross-conformal prediction, and none is below {1 / (split.statistics + 1):.2g}; "
            f"those of snf-features rest on all"
        )
    if facts.smallest != facts.largest:
        notes.append("sizes differ: unless a fit is set, training resizes images and crops them to their middle")
    if facts.channels is None:
        notes.append(
            "some images are grey and some have colour: unless a colour is set, training converts all to colour"
        )
    if "I;16" in modes:
        notes.append(
            f"{modes['I;16']} images have 16 bits: every 256 grey levels become one, unless the option levels of a "
            "training says how many levels the camera has, such as 4096"
        )
    if near.images:
        pairs = "1 pair" if near.sets == 1 else f"{near.sets} pairs"
        notes.append(
            f"near duplicates: {near.images} images in {pairs}, as is usual for parts that look alike; where they show "
            "the same part, an upload can leave out all but the first"
        )
    if findings.ignored:
        skipped = "1 file was" if findings.ignored == 1 else f"{findings.ignored} files were"
        notes.append(f"{skipped} skipped, as hidden files, files of systems and texts such as .txt and .json are")
    if findings.slugs:
        left_out = findings.slugs.total()
        notes.append("1 file was left out" if left_out == 1 else f"{left_out} files were left out")
    return notes


def _histogram(index: sqlite3.Connection, column: str) -> dict[str, int]:
    rows = index.execute(
        f"SELECT {column}, count(*) FROM images GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {LISTED}"  # noqa: S608
    )
    return dict(rows.fetchall())


def distinct(index: sqlite3.Connection, expression: str) -> int:
    count: int = index.execute(f"SELECT count(DISTINCT {expression}) FROM images").fetchone()[0]  # noqa: S608
    return count


def _exact(index: sqlite3.Connection) -> Duplicates:
    repeated = "SELECT digest, count(*) AS n FROM images GROUP BY digest HAVING n > 1"
    sets, images = index.execute(f"SELECT count(*), total(n) FROM ({repeated})").fetchone()  # noqa: S608
    largest = index.execute(f"{repeated} ORDER BY n DESC, min(path) LIMIT {EXAMPLES}").fetchall()
    examples = [
        [
            path
            for (path,) in index.execute(
                "SELECT path FROM images WHERE digest = ? ORDER BY path LIMIT ?", (digest, EXAMPLES)
            )
        ]
        for digest, _ in largest
    ]
    return Duplicates(images=int(images), sets=sets, examples=examples)


def _near(index: sqlite3.Connection) -> Duplicates:
    # One row for each hash: different pixels with the same hash are near duplicates, too.
    rows = index.execute(
        "SELECT dhash, count(DISTINCT digest), count(*), min(path), max(path) FROM images GROUP BY dhash ORDER BY dhash"
    ).fetchall()
    hashes = np.array([row[0] + 2**63 for row in rows], dtype=np.uint64)
    pairs = near_pairs(hashes)
    crowded = [place for place, row in enumerate(rows) if row[1] > 1]
    near = np.union1d(pairs.ravel(), np.array(crowded, dtype=np.int64))
    examples = [[rows[place][3], rows[place][4]] for place in crowded[:EXAMPLES]]
    examples += [[rows[left][3], rows[right][3]] for left, right in pairs[: EXAMPLES - len(examples)]]
    return Duplicates(images=sum(rows[place][2] for place in near), sets=len(pairs) + len(crowded), examples=examples)


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
