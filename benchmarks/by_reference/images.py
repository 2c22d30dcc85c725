"""Images at a location: synthetic digits in Parquet files, and real images as JPEGs in tars and as PNGs in Parquet."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from tests.support.paths import DIGITS

FILE_IMAGES = 10_000
"""Images in each Parquet file."""
GROUP_IMAGES = 1_000
"""Images in each row group, which is the least that a reader fetches."""
LAYOUTS = {
    "files": "image files",
    "parquet": f"Parquet files of {FILE_IMAGES:,} images in row groups of {GROUP_IMAGES:,}",
}
"""Layouts of images at a location."""
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An image as Hugging Face's datasets store it."""
Pixels = NDArray[np.uint8]


def synthetic(folder: Path, count: int) -> Path:
    """Return a folder with ``count`` synthetic images; files that are there already are kept.

    A file depends on its number alone, so that more images begin with those of fewer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-count // FILE_IMAGES)):
        images = min(FILE_IMAGES, count - number * FILE_IMAGES)
        path = folder / f"digits-{number:05d}.parquet"
        if path.exists() and parquet.read_metadata(path).num_rows == images:
            continue
        pixels = digits(number, images)
        names = [f"{number * FILE_IMAGES + index:08d}.png" for index in range(images)]
        write_parquet(path, names, [encoded(one, "PNG") for one in pixels])
    return folder


def digits(seed: int, count: int) -> Pixels:
    """Return shifted digits with noise, uint8 ``(count, 28, 28)``."""
    chance = np.random.default_rng(seed)
    originals = np.stack([np.asarray(Image.open(path).convert("L")) for path in DIGITS])
    chosen = originals[chance.integers(0, len(originals), count)]
    shifts = chance.integers(-3, 4, (count, 2))
    moved = np.stack([np.roll(image, shift, (0, 1)) for image, shift in zip(chosen, shifts, strict=True)])
    noise = chance.integers(0, 4, moved.shape)
    return np.clip(moved.astype(int) + noise * (moved > 0), 0, 255).astype(np.uint8)


def encoded(pixels: Pixels, kind: str, quality: int = 95) -> bytes:
    """Return an image ``(H, W)`` or ``(H, W, 3)`` as a file."""
    buffer = io.BytesIO()
    options = {"quality": quality} if kind == "JPEG" else {"compress_level": 1}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(path: Path, names: list[str], files: list[bytes]) -> None:
    """Write image files as a Parquet file, which appears whole."""
    images = [{"bytes": data, "path": name} for name, data in zip(names, files, strict=True)]
    table = pa.table({"image": pa.array(images, STRUCT)})
    unfinished = path.with_suffix(".unfinished")
    parquet.write_table(table, unfinished, row_group_size=GROUP_IMAGES)
    unfinished.rename(path)


def write_tars(folder: Path, names: list[str], files: list[bytes], tars: int = 4) -> None:
    """Write image files as a WebDataset: tars of ``NAME.jpg`` with ``NAME.json`` beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(tars):
        with tarfile.open(folder / f"shard-{number:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in list(zip(names, files, strict=True))[number::tars]:
                beside = json.dumps({"number": name}).encode()
                for member, content in ((name, data), (f"{Path(name).stem}.json", beside)):
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def first_files(folder: Path, images: int, into: Path) -> Path:
    """Return a folder with the first files of another one, as many as hold so many images."""
    into.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.parquet"))[: -(-images // FILE_IMAGES)]:
        target = into / path.name
        if not target.exists():
            os.link(path, target)
    return into


def names_of(folder: Path) -> Iterator[str]:
    """Yield the names of the synthetic images of a folder, in order."""
    for path in sorted(folder.glob("*.parquet")):
        for row in parquet.read_table(path, columns=["image"])["image"].to_pylist():
            yield row["path"]
