"""The header of a .npy file, read without its data."""

from __future__ import annotations

from typing import IO, Any

import numpy as np


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and type, leaving ``file`` at the data. Raises ``ValueError`` for another format."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return tuple(shape), bool(fortran_order), dtype
