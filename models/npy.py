"""The header of a .npy file, read without its data."""

from __future__ import annotations

from tokenize import TokenError
from typing import IO, Any

import numpy as np


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and type, leaving ``file`` at the data. Raises ``ValueError`` for another format."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read(file)
    except (SyntaxError, TokenError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f"the header of the array cannot be read: {error}") from error
    return tuple(int(side) for side in shape), bool(fortran_order), dtype
