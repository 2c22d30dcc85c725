"""Ordered read-ahead of pieces of files by several threads, in bounded memory."""

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
    """Data to read from files in one call: its size in bytes, and the function that reads it."""

    size: int
    read: Callable[[], T]


def read_ahead(pieces: Iterable[Piece[T]]) -> Generator[T]:
    """Read pieces of files ahead in several threads, and yield their contents in order.

    Errors in the threads are raised by this generator.
    """
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
