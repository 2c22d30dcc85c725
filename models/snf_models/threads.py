"""Numbers of CPU threads for engines, PyTorch and BLAS. PyTorch is imported when a function needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from snf_runtime import threads


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
