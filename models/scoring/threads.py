"""How many threads the libraries use for a piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch ``count`` threads while the block runs.

    On arrays of a few kilobytes threads cost more than they bring, and where another engine has threads of its own they
    keep each other waiting.
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
    """Give NumPy and SciPy one thread in this process from here on.

    The products of a verdict are small: more threads only spin, in the way of those that run the flow.
    """
    threadpool_limits(1, user_api="blas")
