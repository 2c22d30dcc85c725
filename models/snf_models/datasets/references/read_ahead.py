from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
THREADS = 8
AHEAD_BYTES = 64 * 2**20
"""Bytes that are read ahead; a single piece may be larger."""


@dataclass(frozen=True)
class Piece(Generic[T]):
    size: int
    read: Callable[[], T]


def read_ahead(pieces: Iterable[Piece[T]]) -> Generator[T]:
    """Read pieces in several threads and yield them in order; errors in the threads are raised here."""
    with ThreadPoolExecutor(THREADS, "read-ahead") as pool:
        pending: deque[tuple[int, Future[T]]] = deque()
        waiting = 0
        try:
            for piece in pieces:
                while pending and (waiting + piece.size > AHEAD_BYTES or len(pending) >= 2 * THREADS):
                    size, future = pending.popleft()
                    yield future.result()
                    waiting -= size
                pending.append((piece.size, pool.submit(piece.read)))
                waiting += piece.size
            while pending:
                yield pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()
