"""Thread pools that decode images, fair among callers and separate for small and large images."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from snf_app.scoring.decoding_room import DecodingRoom
from snf_runtime.images.policy import MAX_PIXELS

SMALL_PIXELS, SMALL_BYTES = 2**21, 2**21
"""Most pixels and bytes of a small image, such as Full HD, decoded in a tenth of a second at worst."""

Item = TypeVar("Item")
T = TypeVar("T")


@dataclass(eq=False)
class Decoding:
    """Task of decoding one request's images in a pool of threads, with its progress so far."""

    caller: str
    function: Callable[[Any], Any]
    items: Sequence[Any]
    pixels: Sequence[int]
    results: list[Any]
    begun: int = 0
    ended: int = 0
    future: Future[list[Any]] = field(default_factory=Future)


class Decoders:
    """Pool of threads, shared by start-time fair queueing (Goyal, Vin, Cheng 1996): waiting saves up no time."""

    def __init__(self, threads: int, most_pixels: int = MAX_PIXELS) -> None:
        self._threads = threads
        self._room = DecodingRoom(most_pixels)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoding")
        self._lock = threading.Lock()
        self._lines: dict[str, deque[Decoding]] = {}
        self._used: dict[str, float] = {}
        self._now = 0.0
        self._working = 0

    async def map(
        self, caller: str, function: Callable[[Item], T], items: Sequence[Item], pixels: Sequence[int] = ()
    ) -> list[T]:
        """Apply a function to the items of a request, in order; cancelling cancels the items that have not begun."""
        if not items:
            return []
        decoding = Decoding(caller, function, items, pixels or [0] * len(items), [None] * len(items))
        with self._lock:
            self._used[caller] = max(self._now, self._used.get(caller, self._now))
            self._lines.setdefault(caller, deque()).append(decoding)
            more = min(self._threads - self._working, len(items))
            self._working += more
        try:
            for _ in range(more):
                self._pool.submit(self._work)
            return await asyncio.wrap_future(decoding.future)
        finally:
            with self._lock:
                self._remove(decoding)

    def close(self) -> None:
        """Cancel what waits, finish what is in progress, and wait for the threads."""
        with self._lock:
            for line in self._lines.values():
                for decoding in line:
                    decoding.future.cancel()
            self._lines.clear()
        self._pool.shutdown()

    def _work(self) -> None:
        while taken := self._take():
            decoding, index = taken
            error: BaseException | None = None
            with self._room.hold(decoding.pixels[index]):
                began = time.perf_counter()
                try:
                    decoding.results[index] = decoding.function(decoding.items[index])
                # Any failure is raised in the request; the thread continues with others.
                except BaseException as raised:
                    error = raised
            self._end(decoding, time.perf_counter() - began, error)

    def _take(self) -> tuple[Decoding, int] | None:
        """Return the request and the index of the next image; None when nothing waits."""
        with self._lock:
            if not self._lines:
                self._working -= 1
                return None
            caller = min(self._lines, key=self._used.__getitem__)
            self._now = self._used[caller]
            line = self._lines[caller]
            decoding, index = line[0], line[0].begun
            decoding.begun += 1
            if decoding.begun < len(decoding.items):
                line.rotate(-1)
            else:
                self._remove(decoding)
            return decoding, index

    def _end(self, decoding: Decoding, seconds: float, error: BaseException | None) -> None:
        with self._lock:
            decoding.ended += 1
            self._used[decoding.caller] = self._used.get(decoding.caller, self._now) + seconds
            # A caller that returns starts at ``_now`` anyway.
            self._used = {name: used for name, used in self._used.items() if name in self._lines or used > self._now}
            if error is not None:
                self._remove(decoding)
            complete = error is not None or decoding.ended == len(decoding.items)
            if not complete or decoding.future.done() or not decoding.future.set_running_or_notify_cancel():
                return
            if error is not None:
                decoding.future.set_exception(error)
            else:
                decoding.future.set_result(decoding.results)

    def _remove(self, decoding: Decoding) -> None:
        """Remove a request from its line, if it is there."""
        line = self._lines.get(decoding.caller)
        if line is not None and decoding in line:
            line.remove(decoding)
            if not line:
                del self._lines[decoding.caller]


@dataclass(frozen=True)
class DecodingLanes:
    """Pools for requests of small images and for all others: a small one never waits for seconds of a large one."""

    small: Decoders
    large: Decoders

    def lane(self, files: Iterable[bytes], pixels: Iterable[int] = ()) -> Decoders:
        """Return the pool for a request, by its files and the pixels that are known."""
        small = all(len(data) <= SMALL_BYTES for data in files) and all(count <= SMALL_PIXELS for count in pixels)
        return self.small if small else self.large

    def close(self) -> None:
        self.small.close()
        self.large.close()
