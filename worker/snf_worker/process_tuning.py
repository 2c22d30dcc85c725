"""Tuning and limits of processes: garbage collector, memory, processor time, and waiting OpenMP threads."""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import resource
from pathlib import Path

GC_THRESHOLD = 10_000
"""New objects between two collections. Python's 700 would traverse half a million objects again and again."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 2**20, 16 * 2**20
"""Bytes from which a block is memory of its own, and of free memory that is kept beside such blocks."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TUNED_BY = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"
OOM_SCORE_ADJ = 900
"""Adjustment of the out-of-memory score, at most 1000: killed before worker, broker and service."""

log = logging.getLogger(__name__)


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


def limit_memory(most: int | None) -> None:
    """Limit the bytes of memory that this process can allocate, on Linux."""
    if most is not None:
        lower_limit(resource.RLIMIT_DATA, most, most)


def lower_limit(kind: int, soft: int, hard: int) -> None:
    """Set a resource limit of this process, but never above its present hard limit."""
    _, inherited = resource.getrlimit(kind)
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError) as problem:
        log.warning("the system refuses to set resource limit %d to %d: %s", kind, soft, problem)


def prefer_oom_kill() -> None:
    """Make the Linux kernel kill this process and its children first when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE_ADJ}\n", encoding="ascii")
    except OSError as problem:
        log.debug("the kernel has no out-of-memory score: %s", problem)
