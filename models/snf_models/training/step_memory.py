"""Memory kept from step to step. To get large blocks anew from the system takes up to a sixth of a step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Numbers of <malloc.h>, and limits and defaults of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
_GREATEST_MMAP_THRESHOLD = 32 * 2**20
_DEFAULT_MMAP_MAX = 65536
VARIABLES = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for reuse until :func:`release_memory`; do nothing without glibc."""
    found = _functions()
    if found is None:
        yield
        return
    tune, _ = found
    tune(_TRIM_THRESHOLD, _NEVER)
    tune(_MMAP_THRESHOLD, _GREATEST_MMAP_THRESHOLD)
    tune(_MMAP_MAX, 0)
    try:
        yield
    finally:
        tune(_MMAP_MAX, _DEFAULT_MMAP_MAX)


def release_memory() -> None:
    """Return freed memory to the system. From then on blocks of 32 MB and more go back when freed."""
    found = _functions()
    if found is not None:
        tune, trim = found
        tune(_TRIM_THRESHOLD, 2 * _GREATEST_MMAP_THRESHOLD)
        trim(0)


@contextmanager
def released_memory() -> Iterator[None]:
    """Return freed memory to the system at the end of the block, even by an error."""
    try:
        yield
    finally:
        release_memory()


@cache
def _functions() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return ``mallopt`` and ``malloc_trim`` of glibc; None where they are missing or tuned by the environment."""
    if any(name in os.environ for name in VARIABLES):
        return None
    library = ctypes.CDLL(None)
    try:
        return library.mallopt, library.malloc_trim
    except AttributeError:
        return None
