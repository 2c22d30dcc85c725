"""Reading of the arrays of an exported model: type and size are checked before memory is allocated."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snf_runtime.errors import ArtifactError
from snf_runtime.exported.manifest import ARRAYS
from snf_runtime.images.npy import npy_header

ENDING = ".npy"
TYPES = (np.uint8, np.int64, np.float32, np.float64)
"""Types of the numbers, in the byte order of this machine."""


def read_export_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Read ``arrays.npz``; raise ``ArtifactError`` for anything but uncompressed arrays of numbers."""
    path = folder / ARRAYS
    arrays: dict[str, NDArray[Any]] = {}
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as content:
            for member in content.infolist():
                name = member.filename.removesuffix(ENDING)
                _check_member(member, size)
                if name in arrays:
                    raise ValueError(f"expected {name} once, got it twice")
                arrays[name] = _array(content, member)
    except (ValueError, OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    return arrays


def _check_member(member: zipfile.ZipInfo, size: int) -> None:
    if not member.filename.endswith(ENDING):
        raise ValueError(f"expected names that end in {ENDING}, got {member.filename}")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits:
        raise ValueError(f"expected arrays that are not compressed or encrypted, got {member.filename}")
    if not member.compress_size == member.file_size <= size:
        raise ValueError(f"expected {member.filename} to have at most the {size} bytes of the file")


def _array(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with content.open(member) as file:
        shape, is_fortran, dtype = npy_header(file)
        if dtype not in TYPES or is_fortran:
            names = ", ".join(kind.__name__ for kind in TYPES)
            raise ValueError(f"expected {member.filename} to have rows of one of {names}, got {dtype}")
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if member.file_size != expected:
            raise ValueError(f"expected {expected} bytes in {member.filename} for {shape}, got {member.file_size}")
        return np.ndarray(shape, dtype, file.read()).copy()
