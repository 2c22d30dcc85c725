"""Images in .npy and .npz files, read one at a time and never unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets.ingest.items import MAX_NAME, ImagePixels, Item, refused, safe_path
from snf_models.datasets.ingest.limits import UploadMeter
from snf_models.datasets.ingest.members import CHUNK, archive_errors
from snf_models.datasets.ingest.zip_files import Members
from snf_models.errors import DatasetRefused
from snf_runtime.images.npy import npy_header
from snf_runtime.images.policy import MAX_PIXELS

IMAGES = ("images", "x_train", "x")
"""Names of the array of images in an .npz with several arrays."""
GROUP = "group"
MAX_GROUP_BYTES = 256 * 2**20
MAX_GROUP_ITEM = 4 * MAX_NAME
"""Most bytes of a group: NumPy stores a character in 4."""
LAST = 0x10FFFF


def read_npy_file(path: Path, filename: str, meter: UploadMeter, within: str) -> Iterator[Item]:
    """Yield images; raise ``DatasetRefused`` if the file is no uint8 array of images."""
    with archive_errors(filename), path.open("rb") as file:
        yield from _images(file, filename, within + "images", meter, None)


def npz_images(
    archive: zipfile.ZipFile, members: Members, filename: str, meter: UploadMeter, within: str
) -> Iterator[Item]:
    """Yield images, with groups of the array ``group``, ``(N,)`` of texts or whole numbers, if there is one."""
    arrays = {name.removesuffix(".npy"): info for name, info in members.items()}
    others = [name for name in arrays if name != GROUP]
    chosen = next((name for name in IMAGES if name in arrays), others[0] if len(others) == 1 else None)
    if chosen is None:
        raise _unusable(f"{filename} holds {', '.join(others) or 'nothing'}; the images are expected in 'images'")
    groups = None
    if GROUP in arrays:
        with archive.open(arrays[GROUP]) as stream:
            groups = _groups(stream, filename, meter)
    with archive.open(arrays[chosen]) as stream:
        yield from _images(stream, f"{filename}: {chosen}", within + chosen, meter, groups)


def _images(
    file: IO[bytes], label: str, within: str, meter: UploadMeter, groups: NDArray[Any] | None
) -> Iterator[ImagePixels]:
    shape, fortran_order, dtype = _header(file, label)
    if dtype != np.uint8:
        raise _unusable(f"{label}: expected uint8, got {dtype}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise _unusable(f"{label}: expected (N, H, W) or (N, H, W, 1 or 3), got {shape}")
    count, height, width = shape[:3]
    if min(shape) < 1 or max(height, width) > 4096 or height * width > MAX_PIXELS:
        raise _unusable(f"{label}: expected images with sides of 1 to 4096, got {shape}")
    if fortran_order and count > 1:
        raise _unusable(f"{label}: expected C order, got Fortran order; save numpy.ascontiguousarray of it")
    if groups is not None and groups.shape != (count,):
        raise _unusable(f"{label}: expected a group for each of {count} images, got {len(groups)}")
    size, digits = math.prod(shape[1:]), len(str(count - 1))
    for index in range(count):
        meter.add_file()
        data = _read_counted(file, size, meter)
        if len(data) < size:
            raise _unusable(f"{label}: the header promises {count} images, the data end in number {index}")
        order = "F" if fortran_order else "C"
        pixels = np.frombuffer(data, np.uint8).reshape((height, width, -1), order=order)  # type: ignore[call-overload]
        group = None if groups is None else _group_name(groups[index])
        yield ImagePixels(f"{within}/{index:0{digits}d}", pixels.transpose(2, 0, 1), group)
    if file.read(1):
        raise _unusable(f"{label}: the file goes on after the {count} images that its header promises")


def _groups(file: IO[bytes], filename: str, meter: UploadMeter) -> NDArray[Any]:
    label = f"{filename}: {GROUP}"
    shape, _, dtype = _header(file, label)
    if dtype.kind not in "Uiu" or len(shape) != 1:
        raise _unusable(f"{label}: expected text or whole numbers (N,), got {dtype} {shape}")
    if not 1 <= dtype.itemsize <= MAX_GROUP_ITEM:
        raise _unusable(f"{label}: expected groups of 1 to {MAX_NAME} characters, got {dtype}")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_GROUP_BYTES:
        raise _unusable(f"{label}: {size} bytes, at most {MAX_GROUP_BYTES} are read")
    data = _read_counted(file, size, meter)
    if len(data) < size:
        raise _unusable(f"{label}: the header promises {size} bytes, {len(data)} are there")
    # NumPy accepts any 32 bits as a character, and Python does not check them.
    if dtype.kind == "U" and np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder)).max(initial=0) > LAST:
        raise _unusable(f"{label}: its text holds numbers that are not characters")
    return np.frombuffer(data, dtype)


def _read_counted(file: IO[bytes], size: int, meter: UploadMeter) -> bytearray:
    """Every piece is counted before the next is read."""
    data = bytearray()
    while piece := file.read(min(CHUNK, size - len(data))):
        meter.add_bytes(len(piece))
        data += piece
    return data


def _group_name(value: Any) -> str:
    return safe_path(str(value))


def _header(file: IO[bytes], label: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        header = npy_header(file)
    except (ValueError, EOFError) as error:
        raise _unusable(f"{label} is not an array: {error}") from error
    if header[2].hasobject:
        raise _unusable(f"{label}: objects are never unpickled, expected uint8")
    return header


def _unusable(detail: str) -> DatasetRefused:
    return refused("malformed-array", detail)
