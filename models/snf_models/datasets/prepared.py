"""Preprocessed pixels of datasets, cached on disk for each preprocessing and mapped into memory."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from snf_models.atomic_files import new_folder, remove_leftovers
from snf_models.datasets.cache_folders import hold, make_room
from snf_models.datasets.dataset import PARTS, Dataset, Images
from snf_models.datasets.ingest.limits import DiskQuota
from snf_models.datasets.mapped_images import PIXELS as OWN_SIZES
from snf_models.datasets.mapped_images import SIZES, MappedImages
from snf_models.datasets.report import DatasetReport
from snf_models.datasets.splits import MOST_REPEATED, folds_of_all
from snf_models.datasets.storage import Storage, open_index
from snf_models.errors import DatasetUnfit, ImageError
from snf_models.images.provenance import Provenance, Split
from snf_runtime.images.preprocessing import Preprocessing, conform

PREPARED = "prepared"
MAX_MADE = 2
"""Most times that a cache is made for one call: another process may remove it before it is held."""
PIXELS = "pixels.npy"
RECORD = "record.json"
ORDER = "part, path"

Progress = Callable[[int, int], None]
"""A function that is called with the work done and all work. What it raises ends the work and leaves no files."""
LEFTOVER_SECONDS = 24 * 3600
"""Age from which a temporary file belongs to a killed process."""


def no_progress(_done: int, _total: int) -> None:
    pass


class Prepared(BaseModel):
    """Metadata of a disk cache."""

    model_config = ConfigDict(frozen=True)

    digest: str
    provenance: Provenance
    folds: list[int] = []


def prepare(
    folder: Path,
    report: DatasetReport,
    preprocessing: Preprocessing,
    room: Callable[[], DiskQuota],
    progress: Progress,
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
        whole_folds=_whole_folds(folder) if report.images <= MOST_REPEATED else None,
    )
    if held is not None:
        finalize(dataset, os.close, held)
    return dataset


def _whole_folds(folder: Path) -> NDArray[np.int8]:
    with closing(open_index(folder)) as index:
        return folds_of_all(index)


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
    """Return the bytes of all images of a dataset in their own sizes."""
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
