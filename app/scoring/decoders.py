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

from app.scoring.decoding_room import DecodingRoom
from snf_runtime.images.policy import MAX_PIXELS

SMALL_PIXELS, SMALL_BYTES = 2**21, 2**21
"""Most pixels and bytes of a small image, such as one of Full HD. Decoding it takes some tens of milliseconds, and
about a tenth of a second at worst."""

Item = TypeVar("Item")
T = TypeVar("T")


@dataclass(eq=False)
class Decoding:
    """Task of decoding one request's images in a pool of threads, with its progress so far.

    It has the function, the files, the number of pixels of each file, and the results so far.
    """

    caller: str
    function: Callable[[Any], Any]
    items: Sequence[Any]
    pixels: Sequence[int]
    results: list[Any]
    begun: int = 0
    ended: int = 0
    future: Future[list[Any]] = field(default_factory=Future)


class Decoders:
    """Pool of threads that decode images, shared fairly among callers.

    A free thread takes an image of the caller that has used the least time.

    It alternates between the requests of that caller. This is start-time fair queueing (Goyal, Vin, Cheng 1996): a
    caller that returns starts where the last turn began, so waiting does not save up time.

    Args:
        threads: Number of threads.
        most_pixels: Most pixels that are decoded at the same time; an image of more is decoded alone.
    """

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
        """Apply a function, such as an image decoder, to each item of a request, on the threads of the pool.

        Cancelling the waiting task cancels the items that have not begun.

        Args:
            caller: Name of the caller, for fair turns.
            function: Function of an item; what it raises is raised here.
            items: Items of the request.
            pixels: Pixels of each item that is decoded; empty where the function decodes nothing.

        Returns:
            The results in the order of the items.
        """
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
        """Cancel the images that wait for decoding, finish those in progress, and wait for the threads to end."""
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
    """Two pools of decoding threads: one for requests of small images, one for all others.

    An image is decoded as a whole, and one of 100 megapixels takes seconds. The operating system shares the processor
    between the threads of both lanes, so that a small image never waits for the end of a large one.

    Attributes:
        small: Threads for requests whose images are all small.
        large: Threads for requests with a larger image.
    """

    small: Decoders
    large: Decoders

    def lane(self, files: Iterable[bytes], pixels: Iterable[int] = ()) -> Decoders:
        """Return the decoding pool for a request: ``small`` if all its images are small, else ``large``.

        Args:
            files: Content of its image files.
            pixels: Pixels of its images, as far as they are known.
        """
        small = all(len(data) <= SMALL_BYTES for data in files) and all(count <= SMALL_PIXELS for count in pixels)
        return self.small if small else self.large

    def close(self) -> None:
        """Shut down the thread pools for small and for large images; images still waiting are cancelled.

        The call returns when the images that are being decoded are finished.
        """
        self.small.close()
        self.large.close()
