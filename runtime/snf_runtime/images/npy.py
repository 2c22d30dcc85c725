"""Safe reading of the header of ``.npy`` files, before their data."""

from __future__ import annotations

import io
import math
from tokenize import TokenError
from typing import IO, Any

import numpy as np

MAX_HEADER = 10_000
"""Largest header in bytes, that of NumPy; NumPy itself would read up to 4 GiB before it checks the size."""
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # the same but for names of fields, which no array here has
}
MAX_DIMENSIONS = 32
MAX_BYTES = 2**63 - 1
"""Largest size of an array in bytes; larger sizes overflow 64-bit integers."""


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, Fortran order and type and stop at the data; raise ``ValueError`` for a damaged or vast array."""
    version = np.lib.format.read_magic(file)
    if version not in READERS:
        raise ValueError(f"expected version 1.0, 2.0 or 3.0, got {version[0]}.{version[1]}")
    length = _read(file, 2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes, got {size}")
    header = io.BytesIO(length + _read(file, size))
    try:
        shape, fortran_order, dtype = READERS[version](header)
    except (
        ValueError, SyntaxError, TokenError, TypeError, LookupError, RecursionError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        # The text of NumPy may contain the whole header.
        raise ValueError(f"the header of the array cannot be read: {str(error)[:100]}") from error
    if dtype.names is not None or dtype.subdtype is not None:
        raise ValueError("expected an array of numbers or text, got one of records")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    # Each side by itself too, because a side of 0 makes the product 0.
    if any(isinstance(side, bool) or not 0 <= side <= MAX_BYTES for side in shape):
        raise ValueError("expected sides from 0 to 2^63 - 1, got a shape with a side outside")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"expected at most 2^63 - 1 bytes, got an array of shape {shape}")
    return shape, fortran_order, dtype


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the file ends within the header of the array")
    return data
