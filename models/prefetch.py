"""Work that runs ahead of who asks for it, in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Generator[T], most: int = 2) -> Generator[T]:
    """Yield what ``items`` does; up to ``most`` of it is made before it is asked for. Raises what ``items`` raises.

    All of ``items`` runs in one thread, closing it too, since files and SQLite's connections are closed where they were
    opened.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        pending = deque(pool.submit(_next, items) for _ in range(most))
        try:
            while found := pending.popleft().result():
                pending.append(pool.submit(_next, items))
                yield found[0]
        finally:
            for one in pending:
                one.cancel()
            pool.submit(items.close).result()


def _next(items: Generator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
