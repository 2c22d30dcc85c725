"""The header of a .npy file, read without its data and without trusting any number in it."""

from __future__ import annotations

import io
import math
from tokenize import TokenError
from typing import IO, Any

import numpy as np

MAX_HEADER = 10_000
"""Most bytes of a header, as NumPy has it; NumPy itself reads one of up to 4 GiB before it looks at the size."""
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # the same but for names of fields, which no array here has
}
MAX_DIMENSIONS = 32
MAX_BYTES = 2**63 - 1
"""Most bytes that a shape may promise: larger sizes overflow the integers that NumPy and files count in."""


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and type, leaving ``file`` at the data.

    All sides are at least 0, and all of the array has at most 2^63 - 1 bytes. Raises ``ValueError`` for another format.
    """
    version = np.lib.format.read_magic(file)
    if version not in READERS:
        raise ValueError(f"expected version 1.0, 2.0 or 3.0, got {version[0]}.{version[1]}")
    length = _read(file, 2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size} bytes, at most {MAX_HEADER} are read")
    header = io.BytesIO(length + _read(file, size))
    try:
        shape, fortran_order, dtype = READERS[version](header)
    except (
        ValueError, SyntaxError, TokenError, TypeError, LookupError, RecursionError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        # NumPy's own text may quote all of the header.
        raise ValueError(f"the header of the array cannot be read: {str(error)[:100]}") from error
    if dtype.names is not None or dtype.subdtype is not None:
        raise ValueError("expected an array of numbers or text, got one of records")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"the array has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are read")
    # Each side on its own as well: a side of 0 makes any product small.
    if any(isinstance(side, bool) or not 0 <= side <= MAX_BYTES for side in shape):
        raise ValueError("expected sides of 0 to 2^63 - 1, got a shape with another one")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"the array's shape {shape} promises more than 2^63 - 1 bytes")
    return shape, fortran_order, dtype


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the header of the array is cut off")
    return data
