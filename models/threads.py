"""Numbers of CPU threads for engines, PyTorch and BLAS. PyTorch is imported when a function needs it."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from statistics import median

from threadpoolctl import threadpool_limits

from snf_runtime import threads

TURNS, STEPS = 2, 4
"""Turns of two numbers of threads in a comparison, and steps of a turn. The first step of a turn is not compared."""
LONG_STEP_S = 1.0
"""Duration of a step in seconds from which a single step is a turn."""
TOLERANCE = 1.03
"""How many times as long a step with half the threads may take, to leave the other cores to other processes."""
SLOW = 2.0
"""Ratio of durations that is clear without further turns, and that shows that another process has begun to compute."""
PATIENCE, REST = 10, 50
"""Time until a comparison because of slow steps, and until any other, as multiples of the time of the last one."""


def thread_count(asked: int | None) -> int:
    """Return ``asked``, or the number of torch, ``OMP_NUM_THREADS`` or all cores; raise ``EngineUnavailable``."""
    if asked is not None:
        return asked
    # Another thread may be importing torch: then it has no functions yet.
    of_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return threads.thread_count(None) if of_torch is None else int(of_torch())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set PyTorch's threads in a block. Many slow down work on small arrays and compete with other engines."""
    import torch  # noqa: PLC0415 - takes a second, and most scoring does without

    before = torch.get_num_threads()
    # Even the same number would clear caches of operations.
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def one_blas_thread() -> None:
    """Limit BLAS to one thread: products of verdicts are small, and more would compete with the flow."""
    threadpool_limits(1, user_api="blas")


def fastest_threads(most: int) -> Generator[int, float]:
    """Yield the fastest number of threads for each step, ``most`` or a half and so on; ``send`` takes its seconds."""
    yield most  # the first step of a process takes longer
    while True:
        count, usual, spent = yield from _comparison(most)
        passed, slow = 0.0, 0
        while passed < (PATIENCE if slow >= STEPS else REST) * spent:
            took = yield count
            passed += took
            slow = slow + 1 if took > SLOW * usual else 0


def _comparison(most: int) -> Generator[int, float, tuple[int, float, float]]:
    """Return the fastest number of threads, the seconds of its steps, and those of all steps of the comparison."""
    count, spent = most, 0.0
    while True:
        fewer = max(1, count // 2)
        seconds: dict[int, list[float]] = {count: [], fewer: []}
        for _ in range(TURNS):
            for tried, kept in seconds.items():
                turn = [(yield tried)]
                while len(turn) < STEPS and turn[-1] < LONG_STEP_S:
                    turn.append((yield tried))
                kept.extend(turn[1:] or turn)
                spent += sum(turn)
            usual, of_fewer = median(seconds[count]), median(seconds[fewer])
            if max(usual, of_fewer) > min(LONG_STEP_S, SLOW * min(usual, of_fewer)):
                break
        if count == 1 or of_fewer > TOLERANCE * usual:
            return count, usual, spent
        count = fewer
