"""Preprocessed pixels of datasets, cached on disk for each preprocessing and mapped into memory."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self, overload
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from snf_client.schemas.datasets import DatasetReport, Split
from snf_models.datasets.dataset import MOST_REPEATED, PARTS, Dataset, Images, Progress, folds_of_all
from snf_models.datasets.storage import Storage, open_index
from snf_models.disk import DiskQuota, new_folder, remove_folder, remove_leftovers
from snf_models.errors import DatasetUnfit, ImageError, StorageFull
from snf_models.images import Provenance
from snf_runtime.images.preprocessing import Preprocessing, conform

KEPT = 8  # most caches of a dataset, unless more are in use: each image size and colour that was asked for makes one


def hold(lock: Path) -> int | None:
    """Lock a pixel cache, and return the descriptor whose closing releases it; None if it is gone or being removed."""
    descriptor = share(lock)
    if descriptor is not None:
        with suppress(OSError):  # of a folder that may only be read
            os.utime(lock)
    return descriptor


def share(path: Path) -> int | None:
    """Lock a file against :func:`remove_unused` without changing it; None if it is gone or being removed."""
    try:
        return _flock(path, fcntl.LOCK_SH)
    except OSError:
        return None


def make_room(folder: Path, lock: str, require: Callable[[], None]) -> None:
    """Remove the least recently used caches that are not in use until ``require`` raises no ``StorageFull``."""
    locks: list[tuple[float, Path]] = []
    for cache in folder.glob("[!.]*"):
        with suppress(FileNotFoundError, NotADirectoryError):  # another process removed it, or it is no cache
            locks.append(((cache / lock).stat().st_mtime, cache / lock))
    surplus = len(locks) - KEPT + 1
    for _, path in sorted(locks):
        try:
            require()
            full = False
        except StorageFull:
            full = True
        if not full and surplus <= 0:
            return
        surplus -= remove_unused(path, partial(remove_folder, path.parent))
    require()


def remove_unused(lock: Path, remove: Callable[[], None]) -> bool:
    """Remove a cache or a file unless a process uses it; return whether it is gone."""
    try:
        descriptor = _flock(lock, fcntl.LOCK_EX)
        try:
            remove()
        finally:
            os.close(descriptor)
    except FileNotFoundError:  # another process removed it
        return True
    except BlockingIOError:
        return False
    return True


def _flock(path: Path, kind: int) -> int:
    """Open and lock a file; raise ``BlockingIOError`` where another process holds it or has made it anew."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        # Between the opening and the lock, another process may remove the folder and make a new one.
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise BlockingIOError(f"{path.name} was made anew")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


OWN_SIZES = "pixels.bin"
SIZES = "sizes.npy"


class MappedImages(Sequence[NDArray[np.uint8]]):
    """Images of different sizes, uint8 ``(C, H, W)``, one after the other in a memory-mapped file."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        channels: int,
        sizes: NDArray[np.int64],
        starts: NDArray[np.int64] | None = None,
    ) -> None:
        lengths = channels * sizes[:, 0] * sizes[:, 1]
        self._pixels = pixels
        self._channels = channels
        self._sizes = sizes
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if starts is None else starts

    @classmethod
    def open(cls, folder: Path, channels: int, images: int) -> Self | None:
        """Return the images of ``pixels.bin`` and ``sizes.npy``; None if these are missing or damaged."""
        try:
            sizes = np.load(folder / SIZES, allow_pickle=False)
            path = folder / OWN_SIZES
            sound = sizes.dtype == np.int64 and sizes.shape == (images, 2) and bool((sizes > 0).all())
            # As Python's whole numbers, which do not overflow.
            if not sound or sum(channels * height * width for height, width in sizes.tolist()) != path.stat().st_size:
                return None
            return cls(np.memmap(path, np.uint8, "r"), channels, sizes)
        except (OSError, ValueError):
            return None

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, rows: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, rows: slice) -> MappedImages: ...

    def __getitem__(self, rows: int | slice) -> NDArray[np.uint8] | MappedImages:
        if isinstance(rows, slice):
            return MappedImages(self._pixels, self._channels, self._sizes[rows], self._starts[rows])
        height, width = self._sizes[rows].tolist()
        start = int(self._starts[rows])
        shape = self._channels, height, width
        return np.asarray(self._pixels[start : start + self._channels * height * width]).reshape(shape)


PREPARED = "prepared"
MAX_MADE = 2  # most times that a cache is made for one call: another process may remove it before it is held
PIXELS = "pixels.npy"
RECORD = "record.json"
ORDER = "part, path"

LEFTOVER_SECONDS = 24 * 3600  # age from which a temporary file belongs to a killed process


class Prepared(BaseModel):
    model_config = ConfigDict(frozen=True)

    digest: str
    provenance: Provenance
    folds: list[int] = []


def prepare(
    folder: Path, report: DatasetReport, preprocessing: Preprocessing, room: Callable[[], DiskQuota], progress: Progress
) -> Dataset:
    """Load a user's dataset from its cache, made first if need be; raise ``DatasetUnfit``, ``StorageFull``."""
    cache = folder / PREPARED / preprocessing.id.removeprefix("sha256:")
    split = report.split
    ends = np.cumsum([getattr(split, part) for part in PARTS])
    shape = (int(ends[-1]), *preprocessing.shape)

    def hold_and_read() -> tuple[int | None, tuple[Images, Prepared] | None]:
        held = hold(cache / RECORD)
        cached = _read(cache, shape, split, preprocessing)
        if cached is None and held is not None:
            os.close(held)
        return held, cached

    def make() -> None:
        needed = _own_bytes(folder, preprocessing) if preprocessing.tiled else math.prod(shape)
        make_room(cache.parent, RECORD, lambda: room().require(needed))
        remove_leftovers(cache.parent, LEFTOVER_SECONDS)
        shutil.rmtree(cache, ignore_errors=True)
        # Another process may have made the same cache meanwhile.
        with suppress(FileExistsError), new_folder(cache, needed) as temporary:
            _write(temporary, folder, report, preprocessing, progress)

    held, cached = hold_and_read()
    for _ in range(MAX_MADE):
        if cached is None:
            make()
            held, cached = hold_and_read()
    if cached is None:
        raise DatasetUnfit(f"the prepared pixels of {report.name} cannot be read back")
    pixels, record = cached
    train, statistics, calibration = (
        pixels[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    )
    with closing(open_index(folder)) as index:
        whole_folds = folds_of_all(index) if report.images <= MOST_REPEATED else None
    dataset = Dataset(
        report.name,
        train,
        statistics,
        calibration,
        test=pixels[:0],
        digest=record.digest,
        preprocessing=preprocessing,
        provenance=record.provenance,
        split=split,
        folds=np.array(record.folds, dtype=np.int8) if split.folds else None,
        whole_folds=whole_folds,
    )
    if held is not None:
        finalize(dataset, os.close, held)
    return dataset


def _write(target: Path, folder: Path, report: DatasetReport, preprocessing: Preprocessing, progress: Progress) -> None:
    shape = (report.images, *preprocessing.shape)
    provenance = Provenance()
    with Storage.open(folder) as storage, (target / (OWN_SIZES if preprocessing.tiled else PIXELS)).open("w+b") as file:
        folds = storage.folds() if report.split.folds else []
        sizes = storage.sizes(ORDER) if preprocessing.tiled else np.tile(preprocessing.shape[1:], (report.images, 1))
        ends = np.cumsum(preprocessing.channels * sizes[:, 0] * sizes[:, 1])
        if not preprocessing.tiled:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        first = file.tell()
        # Read in the order in which they are stored, as one out of it may cost the reading of all before it.
        for done, (row, stored) in enumerate(zip(storage.ranks(ORDER), storage.images("start"), strict=True), start=1):
            try:
                image = conform(storage.image(stored), preprocessing)
            except ImageError as error:
                raise DatasetUnfit(f"{stored.path} of {report.name}: {error.detail}") from error
            height, width = sizes[row].tolist()
            if image.pixels.shape[1:] != (height, width):
                got = "x".join(map(str, image.pixels.shape[:0:-1]))
                raise DatasetUnfit(f"{stored.path} of {report.name}: expected {width}x{height} pixels, got {got}")
            file.seek(first + int(ends[row]) - image.pixels.size)
            for channel in image.pixels:  # one by one, as an image of tiles may be large
                file.write(channel.tobytes())
            provenance = provenance.with_image(image)
            progress(done, report.images)
        file.seek(first)
        digest = _digest(file, report, preprocessing, folds, sizes)
    if preprocessing.tiled:
        np.save(target / SIZES, sizes, allow_pickle=False)
    record = Prepared(digest=digest, provenance=provenance, folds=folds)
    (target / RECORD).write_text(record.model_dump_json(), encoding="utf-8")


def _digest(
    file: BinaryIO, report: DatasetReport, preprocessing: Preprocessing, folds: list[int], sizes: NDArray[np.int64]
) -> str:
    """Return the SHA-256 of prepared pixels and of how they are divided."""
    shape = (report.images, *preprocessing.shape)
    content = hashlib.sha256(repr((shape, report.split.train, report.split.statistics)).encode())
    if folds:  # other folds of the same pixels give another model
        content.update(bytes(folds))
    for height, width in sizes.tolist():
        if preprocessing.tiled:
            content.update(repr((preprocessing.channels, height, width)).encode())
        content.update(file.read(preprocessing.channels * height * width))
    return content.hexdigest()


def _own_bytes(folder: Path, preprocessing: Preprocessing) -> int:
    with closing(open_index(folder)) as index:
        pixels: int = index.execute("SELECT sum(width * height) FROM images").fetchone()[0]
    return preprocessing.channels * pixels


def _read(
    cache: Path, shape: tuple[int, ...], split: Split, preprocessing: Preprocessing
) -> tuple[Images, Prepared] | None:
    """Return cached pixels with their record; None where they are missing or damaged."""
    try:
        record = Prepared.model_validate_json((cache / RECORD).read_bytes())
        pixels = _pixels(cache, shape, preprocessing)
    except (OSError, ValueError, ValidationError):
        return None
    sizes = [record.folds.count(fold) for fold in range(len(split.folds))]
    sound = pixels is not None and sizes == split.folds and len(record.folds) == sum(sizes)
    return (pixels, record) if pixels is not None and sound else None


def _pixels(cache: Path, shape: tuple[int, ...], preprocessing: Preprocessing) -> Images | None:
    if preprocessing.tiled:
        return MappedImages.open(cache, preprocessing.channels, shape[0])
    pixels: NDArray[np.uint8] = np.load(cache / PIXELS, mmap_mode="r", allow_pickle=False)
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None
