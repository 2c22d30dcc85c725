"""Tuning and limits of processes: garbage collector, memory, processor time, and waiting OpenMP threads."""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

GC_THRESHOLD = 10_000
"""New objects between two collections. Python's 700 would traverse half a million objects again and again."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 2**20, 16 * 2**20
"""Bytes from which a block is memory of its own, and of free memory that is kept beside such blocks."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TUNED_BY = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"
OOM_SCORE_ADJ = 900
"""Adjustment of the out-of-memory score, at most 1000: killed before worker, broker and service."""


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


USER_UMASK = "_SNF_USER_UMASK"
"""Environment variable that our processes hand to those that they start; it is no setting."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@cache
def keep_files_private() -> int:
    """Set the umask 077 for this process and its children, and return the user's own."""
    own = os.umask(_OTHERS)
    return int(os.environ.setdefault(USER_UMASK, f"{own:03o}"), 8)


@contextmanager
def user_umask() -> Iterator[None]:
    """Restore the user's umask during the block, for files outside of ``home`` that a user asks for."""
    given = keep_files_private()
    os.umask(given)
    try:
        yield
    finally:
        os.umask(_OTHERS)


@contextmanager
def private_umask() -> Iterator[None]:
    """Make new files private during the block, for ``home`` inside :func:`user_umask`."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def protect_home(home: Path) -> str | None:
    """Make the data folder private to its owner; return a sentence on what was or could not be changed, or None."""
    keep_files_private()
    if not home.is_dir():
        return None
    state = home.stat()
    mode = stat.S_IMODE(state.st_mode)
    if not mode & _OTHERS:
        return None
    open_to = f"{home} was open to other users of this machine (mode {mode:o})"
    if state.st_uid != os.getuid():
        return f"{open_to} and stays so, because it belongs to uid {state.st_uid}: its owner should chmod 700 it"
    try:
        home.chmod(mode & ~_OTHERS)
    except OSError as error:
        return f"{open_to} and stays so: {error.strerror}"
    return f"{open_to}; now it is open to its owner alone"
