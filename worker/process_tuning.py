from __future__ import annotations

import atexit
import ctypes
import gc
import os

GC_THRESHOLD = 10_000
"""New objects between two collections. Python's 700 would traverse half a million objects again and again."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 2**20, 16 * 2**20
"""Bytes from which a block is memory of its own, and of free memory that is kept beside such blocks."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TUNED_BY = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"


def give_back_memory() -> None:
    """Make glibc give freed blocks of 1 MiB and more back to the system, unless its variables tune it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name in os.environ for name in _TUNED_BY):
        # By itself glibc raises it to 32 MiB: memory of decoded images then stayed in the heaps of all threads.
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def tune_process() -> None:
    """Collect garbage less often and let waiting OpenMP threads sleep; call it before PyTorch is imported."""
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    atexit.register(gc.freeze)
    # By default a thread spins, and takes its core from other processes, and from the threads that it waits for.
    # Some ten microseconds help: a training step has thousands of operations that are as short as waking a thread.
    if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() != "ACTIVE":
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
