"""Numbers of threads that torch and BLAS use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of PyTorch's CPU threads to ``count`` in a ``with`` block, and restore it afterwards.

    Threads slow down work on arrays of a few kilobytes, and compete with the threads of other engines.
    """
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
