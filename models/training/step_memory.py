"""Memory of a training, which the C library keeps from the flow's initialisation on and from one step to the next.

By default glibc asks the system for each block above 32 MB anew, and gives smaller ones back soon after they are freed.
The system fills every page with zeros when it is first used, which takes a sixth of a step where gradients have tens of
megabytes. Where the C library is another one, or where its environment variables tune it, nothing changes.
"""

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
    """Context manager that makes the C library keep freed memory for reuse, not return it to the system.

    In the block, memory of any size comes from a heap that does not shrink.

    The heap of the main thread keeps what is freed until :func:`release_memory` is called, whoever allocated it. Blocks
    of 32 MB and more that are allocated outside of ``with`` blocks are no part of it.
    """
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
    """Give back to the operating system the freed memory that the process kept for reuse.

    From then on the thresholds of glibc are fixed at the greatest to which it raises them by itself: blocks of 32 MB
    and more go back when they are freed, and the heap where 64 MB at its end are free.
    """
    found = _functions()
    if found is not None:
        tune, trim = found
        tune(_TRIM_THRESHOLD, 2 * _GREATEST_MMAP_THRESHOLD)
        trim(0)


@contextmanager
def released_memory() -> Iterator[None]:
    """Context manager that gives freed memory back to the system when its block ends, even by an error."""
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
