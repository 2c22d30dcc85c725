"""Numbers of CPU threads for engines, PyTorch and BLAS.

The module does not import PyTorch until a function needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from snf_runtime import threads


def thread_count(asked: int | None) -> int:
    """Return the number of CPU threads to compute with: the number asked for, or a default.

    Args:
        asked: The number that was asked for. None for that of torch, which programs may set; in a process without torch
            for ``OMP_NUM_THREADS``, or all cores, as torch has it.

    Raises:
        EngineUnavailable: ``OMP_NUM_THREADS`` is wrong.
    """
    if asked is not None:
        return asked
    # Another thread may be importing torch: then it has no functions yet.
    of_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return threads.thread_count(None) if of_torch is None else int(of_torch())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of PyTorch's CPU threads to ``count`` in a ``with`` block, and restore it afterwards.

    Threads slow down work on arrays of a few kilobytes, and compete with the threads of other engines.
    """
    import torch  # noqa: PLC0415 - takes a second, and most scoring does without

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_blas_thread() -> None:
    """Limit the linear algebra of NumPy and SciPy (BLAS) to one thread, for the rest of this process.

    The matrix products of verdicts are small: more threads would only compete with those that run the flow.
    """
    threadpool_limits(1, user_api="blas")
