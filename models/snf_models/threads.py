"""Numbers of CPU threads, and generators that compute ahead in other threads."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from snf_runtime import parallelism


def thread_count(asked: int | None) -> int:
    """Return ``asked``, or the number of torch, ``OMP_NUM_THREADS`` or all cores; raise ``EngineUnavailable``."""
    if asked is not None:
        return asked
    # Another thread may be importing torch: then it has no functions yet.
    of_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return parallelism.thread_count(None) if of_torch is None else int(of_torch())


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


T = TypeVar("T")


def prefetch(items: Generator[T], count: int = 2) -> Generator[T]:
    """Compute items ahead in another thread, which also closes the generator: SQLite and files need the same thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        pending = deque(pool.submit(_next, items) for _ in range(count))
        try:
            while item := pending.popleft().result():
                pending.append(pool.submit(_next, items))
                yield item[0]
        finally:
            for future in pending:
                future.cancel()
            pool.submit(items.close).result()


def _next(items: Generator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None


THREADS = 8
AHEAD_BYTES = 64 * 2**20  # bytes that are read ahead; a single piece may be larger


def read_ahead(pieces: Iterable[tuple[int, Callable[[], T]]]) -> Generator[T]:
    """Call readers of so many bytes in several threads, and yield results in order; their errors are raised here."""
    with ThreadPoolExecutor(THREADS, "read-ahead") as pool:
        pending: deque[tuple[int, Future[T]]] = deque()
        waiting = 0
        try:
            for size, read in pieces:
                while pending and (waiting + size > AHEAD_BYTES or len(pending) >= 2 * THREADS):
                    done, future = pending.popleft()
                    yield future.result()
                    waiting -= done
                pending.append((size, pool.submit(read)))
                waiting += size
            while pending:
                yield pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()
