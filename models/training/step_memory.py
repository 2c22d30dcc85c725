"""Memory of training steps, which the C library keeps from one step to the next.

By default glibc asks the system for each block above 32 MB anew, and for smaller ones soon after they were freed. The
system fills every page with zeros when it is first used, which takes a third of a step's time where gradients have tens
of megabytes. Where the C library is another one, nothing changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Numbers of <malloc.h>, and the defaults of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_GREATEST_MMAP_THRESHOLD = 32 * 2**20
_DEFAULT_MMAP_MAX = 65536
_GREATEST_INT = 2**31 - 1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep memory that is freed in a ``with`` block for later allocations of this process.

    It goes back to the system by :func:`release_memory`. Blocks that were allocated outside of ``with`` blocks do so
    when they are freed.
    """
    tune = _function("mallopt")
    if tune is None:
        yield
        return
    # Blocks from the heap in place of mappings of their own, and a heap that does not shrink.
    tune(_TRIM_THRESHOLD, _GREATEST_INT)
    tune(_MMAP_THRESHOLD, _GREATEST_MMAP_THRESHOLD)
    tune(_MMAP_MAX, 0)
    try:
        yield
    finally:
        tune(_MMAP_MAX, _DEFAULT_MMAP_MAX)


def release_memory() -> None:
    """Give freed memory that was kept back to the system, and keep no more until the next ``with`` block."""
    tune, trim = _function("mallopt"), _function("malloc_trim")
    if tune is not None and trim is not None:
        tune(_TRIM_THRESHOLD, 2 * _GREATEST_MMAP_THRESHOLD)  # what glibc itself rises to
        trim(0)


@cache
def _function(name: str) -> Callable[..., Any] | None:
    """Return a function of glibc; None where the C library has none of this name."""
    return getattr(ctypes.CDLL(None), name, None)
