from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
