"""How work is divided: threads, images of a parallel run, and steps between which other work can run."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from snf_runtime.errors import EngineUnavailable

MICRO_BATCHES = (1, 4, 16)
"""Micro-batches that are measured: few, because each is compiled at the first load."""
DEFAULT_MICRO_BATCH = 4
"""Micro-batch without a measurement; hidden activations of a coupling network of width 512 then fit in CPU caches."""
MICRO_BATCH_PIXELS = 16 * 128 * 128
"""Most pixels in a micro-batch of several images. Other work waits while a thread computes one."""
GAIN = 1.03
"""Factor by which a larger micro-batch must be faster: it needs more memory and wastes more if it is not full."""
HOPELESS = 4.0
"""A micro-batch that is slower than the best by this factor is not measured again."""
MAX_THREADS = 1024
"""Most threads, and largest micro-batch."""
ROUNDS, SECONDS = 7, 2.0
"""Most measurements of each micro-batch, and the time after which they end."""


@dataclass(frozen=True)
class BatchTiming:
    """Images of a micro-batch, with the seconds of one on every thread in parallel, and of one image alone.

    >>> BatchTiming(micro_batch=4, parallel_requests=2, parallel_s=0.1, single_s=0.016).parallel_runs(23)
    3
    >>> BatchTiming(micro_batch=4, parallel_requests=2, parallel_s=0.1, single_s=0.016).parallel_runs(17)
    2
    """

    micro_batch: int
    parallel_requests: int
    parallel_s: float
    single_s: float

    def __post_init__(self) -> None:
        for name in ("micro_batch", "parallel_requests"):
            count = getattr(self, name)
            if type(count) is not int or not 1 <= count <= MAX_THREADS:
                raise ValueError(f"expected {name} from 1 to {MAX_THREADS}, a whole number, got {count!r}")
        for name in ("parallel_s", "single_s"):
            time_taken = getattr(self, name)
            if type(time_taken) is not float or not (math.isfinite(time_taken) and time_taken > 0):
                raise ValueError(f"expected {name} to be more than 0 s, a float, got {time_taken!r}")

    def parallel_runs(self, images: int) -> int:
        """Return how many parallel runs to compute images in; the rest is computed one by one if that is faster."""
        full, rest = divmod(images, self.micro_batch * self.parallel_requests)
        return full + (rest * self.single_s > self.parallel_s)


def max_micro_batch(pixels: int) -> int:
    """Return 1, 4 or 16 images of ``pixels`` pixels: several have at most 262,144 together.

    >>> max_micro_batch(28 * 28), max_micro_batch(256 * 256), max_micro_batch(1024 * 1024)
    (16, 4, 1)
    """
    return max(images for images in MICRO_BATCHES if images == 1 or images * pixels <= MICRO_BATCH_PIXELS)


def assumed_timing(threads: int, micro_batch: int = DEFAULT_MICRO_BATCH) -> BatchTiming:
    """Return assumed times, in which an image alone takes a tenth more than in a full parallel run."""
    return BatchTiming(micro_batch, threads, parallel_s=1.0, single_s=1.1 / (micro_batch * threads))


def fastest_micro_batch(run: Callable[[int], Callable[[], object]], candidates: Iterable[int]) -> int:
    """Return the first candidate whose time per image is within 3 % of the best."""
    works = {size: run(size) for size in candidates}
    least: dict[int, float] = {}
    for size, work in works.items():
        work()
        least[size] = _once(work) / size
    began = time.perf_counter()
    for _ in range(ROUNDS):
        if time.perf_counter() - began > SECONDS:
            break
        for size, work in works.items():
            if least[size] <= HOPELESS * min(least.values()):
                least[size] = min(least[size], _once(work) / size)
    return next(size for size, time_per_image in least.items() if time_per_image <= GAIN * min(least.values()))


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest of 7 run times, after a run that is not timed."""
    work()
    return min(_once(work) for _ in range(ROUNDS))


def _once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
    together = max(1, min(threads * max_micro_batch(pixels), threads * MICRO_BATCH_PIXELS // pixels))
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
    return min(_cores(), MAX_THREADS)


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
