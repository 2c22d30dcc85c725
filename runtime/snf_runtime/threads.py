"""Choice of the number of CPU threads."""

from __future__ import annotations

import os
import re
from pathlib import Path

from snf_runtime.errors import EngineUnavailable
from snf_runtime.scoring.engines.tiles import MAX_AT_ONCE

CPUS = Path("/sys/devices/system/cpu")
"""Folder of Linux with a folder for each hardware thread."""


def thread_count(asked: int | None) -> int:
    """Return ``asked``, else ``OMP_NUM_THREADS``, else the cores that this process may use, as torch counts them."""
    if asked is not None:
        if not 1 <= asked <= MAX_AT_ONCE:
            raise ValueError(f"expected threads from 1 to {MAX_AT_ONCE}, got {asked}")
        return asked
    if wanted := os.environ.get("OMP_NUM_THREADS", "").strip():
        first = wanted.split(",")[0].strip()  # a list has a number for each nested level of threads
        if not re.fullmatch("[0-9]{1,9}", first) or not 1 <= int(first) <= MAX_AT_ONCE:
            raise EngineUnavailable(f"expected OMP_NUM_THREADS from 1 to {MAX_AT_ONCE}, got {wanted}")
        return int(first)
    return min(_cores(), MAX_AT_ONCE)


def _cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len({_core(cpu) for cpu in os.sched_getaffinity(0)})


def _core(cpu: int) -> str:
    """Return the list of the hardware threads of the core that a hardware thread belongs to."""
    try:
        return (CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:  # not all systems say it
        return str(cpu)
