"""How work is divided: threads, images of a parallel run, and steps between which other work can run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from snf_runtime.errors import EngineUnavailable

MICRO_BATCH = 4
"""Images of a micro-batch: hidden activations of a coupling network of width 512 then fit in CPU caches."""
MICRO_BATCH_PIXELS = 16 * 128 * 128
"""Most pixels in a micro-batch of several images. Other work waits while a thread computes one."""
PART_OF_RUN = 0.7
"""Share of the images of a parallel run beyond which it is faster than one by one: they take 1.1 to 2 times as long."""
MAX_THREADS = 1024
"""Most threads, and largest micro-batch."""


@dataclass(frozen=True)
class BatchPlan:
    """Images of a micro-batch, micro-batches that run at once, and whether an image alone has the same bits.

    >>> BatchPlan(micro_batch=4, parallel_requests=2).parallel_runs(22)
    3
    >>> BatchPlan(micro_batch=4, parallel_requests=2).parallel_runs(21)
    2
    """

    micro_batch: int
    parallel_requests: int
    is_equal_alone: bool = True

    def __post_init__(self) -> None:
        for name in ("micro_batch", "parallel_requests"):
            count = getattr(self, name)
            if type(count) is not int or not 1 <= count <= MAX_THREADS:
                raise ValueError(f"expected {name} from 1 to {MAX_THREADS}, a whole number, got {count!r}")

    def parallel_runs(self, images: int) -> int:
        """Return how many parallel runs to compute images in; the rest is computed one by one where that is faster."""
        together = self.micro_batch * self.parallel_requests
        full, rest = divmod(images, together)
        return full + (rest > (PART_OF_RUN * together if self.is_equal_alone else 0))


def micro_batch_of(pixels: int) -> int:
    """Return the images of ``pixels`` pixels in a micro-batch: 4, or 1 where 4 have more than 262,144 pixels.

    >>> micro_batch_of(28 * 28), micro_batch_of(256 * 256), micro_batch_of(1024 * 1024)
    (4, 4, 1)
    """
    return MICRO_BATCH if MICRO_BATCH * pixels <= MICRO_BATCH_PIXELS else 1


T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Generator that yields between the steps of a computation and returns its result."""

STEP, STEP_PIXELS = 32, 32 * 128 * 128
"""Largest number of images in a step, and of their pixels, unless the micro-batches of all threads have more."""


def chunk_size(pixels: int, threads: int) -> int:
    """Return the images of a step: they fill the micro-batches of all threads, or are fewer where they are very large.

    >>> chunk_size(28 * 28, 2), chunk_size(224 * 224, 2), chunk_size(224 * 224, 16), chunk_size(1024 * 1024, 2)
    (32, 8, 64, 1)
    """
    together = max(1, min(threads * micro_batch_of(pixels), threads * MICRO_BATCH_PIXELS // pixels))
    return together * max(1, min(STEP, STEP_PIXELS // pixels) // together)


def finish(steps: Steps[T]) -> T:
    """Run a generator to its end, ignore what it yields, and return the value of its ``return``."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


CPUS = Path("/sys/devices/system/cpu")
"""Folder of Linux with a folder for each hardware thread."""
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""File of Linux with the microseconds of processor time that a container may use in a period, and the period."""


def thread_count(asked: int | None) -> int:
    """Return ``asked``, else ``OMP_NUM_THREADS``, else the cores that this process may use, as torch counts them."""
    if asked is not None:
        if not 1 <= asked <= MAX_THREADS:
            raise ValueError(f"expected threads from 1 to {MAX_THREADS}, got {asked}")
        return asked
    if wanted := os.environ.get("OMP_NUM_THREADS", "").strip():
        first = wanted.split(",")[0].strip()  # a list has a number for each nested level of threads
        if not re.fullmatch("[0-9]{1,9}", first) or not 1 <= int(first) <= MAX_THREADS:
            raise EngineUnavailable(f"expected OMP_NUM_THREADS from 1 to {MAX_THREADS}, got {wanted}")
        return int(first)
    return min(_cores(), _quota(), MAX_THREADS)


def _cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len({_core(cpu) for cpu in os.sched_getaffinity(0)})


def _quota() -> int:
    """Return the cores that a container may use, rounded up; ``MAX_THREADS`` where nothing limits them."""
    try:
        microseconds, period = map(int, QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # another system, or "max"
        return MAX_THREADS
    return max(1, math.ceil(microseconds / period))


def _core(cpu: int) -> str:
    """Return the list of the hardware threads of the core that a hardware thread belongs to."""
    try:
        return (CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:  # not all systems say it
        return str(cpu)
