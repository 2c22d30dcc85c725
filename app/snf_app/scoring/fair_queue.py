"""Queue of decoding and scoring: fair among callers, and bounded in requests, images and pixels."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem, draining
from snf_app.metrics.registry import ServiceMetrics
from snf_runtime.images.files import MAX_PIXELS
from snf_runtime.parallelism import STEP, Steps

Item = TypeVar("Item")
T = TypeVar("T")

BATCH = STEP
"""Most images, each once per draw, in a batch: few enough that clients send again while the next one is scored."""
UNSHARED = BATCH // 4
"""Number of waiting requests that a request with unshared steps counts as, because each of its turns takes a step."""
DECODERS = 2  # threads that decode small images beside the scoring thread, and threads that decode large ones
SMALL_PIXELS, SMALL_BYTES = 2**21, 2**21
"""Most pixels and bytes of a small image, such as Full HD, decoded in a tenth of a second at worst."""

FADING = 0.98  # factor on the remembered longest turn, at every turn
SMOOTHING = 0.2  # weight of the newest measurement in the running mean of seconds an image
LONGEST_WAIT_S = 60  # longest wait that a refusal asks for, in seconds
PIXELS_WAIT_S = 10  # seconds that a refusal for the pixels of large images asks to wait
CLOSE_S = 5.0  # longest wait for the threads at the end, in seconds

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """Work of one request: a function of items, which shares batches with equal functions, or steps of its own."""

    caller: str
    images: int  # in the queue until it ends, each once per draw
    future: asyncio.Future[Any]
    function: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    items: Sequence[Any] = ()
    batch: int = 1  # most items of a turn
    pixels: Sequence[int] = ()  # of each item, held in its turn
    steps: Steps[Any] | None = None
    result: Any = None
    waiting: int = 0  # weight against the limit on requests, until its first turn has ended
    arrived: float = field(default_factory=time.perf_counter)
    begun: int = 0
    done: int = 0
    ended: bool = False
    error: BaseException | None = None

    @property
    def finished(self) -> bool:
        return self.ended or self.error is not None

    def begin(self, most: int) -> int:
        """Begin up to ``most`` further items, and return how many."""
        taken = min(most, len(self.items) - self.begun)
        self.begun += taken
        return taken


class Part(NamedTuple):
    """Part of a request's work that is done in one turn: its items from ``start`` to ``stop``, or a step."""

    work: Work
    start: int
    stop: int

    @property
    def item_count(self) -> int:
        return self.stop - self.start

    @property
    def images(self) -> int:
        """Images of the part, each once per draw."""
        return self.item_count * self.work.images // len(self.work.items) if self.work.items else 0


class Lane:
    """Work that waits for the same threads, in fair order of its callers by seconds. Not thread-safe.

    Fair queueing (Demers, Keshav, Shenker 1989); a caller that waits saves up no time.
    """

    def __init__(self, lock: threading.Lock, max_pixels: float = math.inf) -> None:
        self.changed = threading.Condition(lock)
        self._max_pixels = self._free_pixels = max_pixels
        self._waiting: dict[str, dict[Work, None]] = {}
        self._used: dict[str, float] = {}
        self._level = 0.0
        self._turn = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether the first work has room for its pixels; others do not pass it, or it would wait for ever."""
        return bool(self._waiting) and self._pixels(self._first()) <= self._free_pixels

    def add(self, work: Work) -> None:
        if work.caller not in self._waiting:
            self._waiting[work.caller] = {}
            self._used[work.caller] = max(self._start, self._used.get(work.caller, self._start))
        self._waiting[work.caller][work] = None

    def remove(self, work: Work) -> None:
        """Remove work, if it is there."""
        line = self._waiting.get(work.caller)
        if line is not None and work in line:
            del line[work]
            if not line:
                del self._waiting[work.caller]

    def clear(self) -> list[Work]:
        """Remove all work and return it."""
        removed = [work for line in self._waiting.values() for work in line]
        self._waiting.clear()
        return removed

    def take(self) -> list[Part]:
        """Return the next turn: a step of one request, or items of requests that share a batch."""
        first = self._first()
        pixels = self._pixels(first)
        self._free_pixels -= pixels
        starts = {first: first.begun}
        if first.steps is None:
            self._fill_batch(first, starts)
        for work in starts:
            self.remove(work)
            if work.begun < len(work.items):
                self.add(work)  # behind the other requests of its caller
        return [Part(work, start, work.begun) for work, start in starts.items()]

    def end(self, turn: Sequence[Part], seconds: float) -> None:
        """Divide the seconds of a turn among its callers by their items, and free its pixels."""
        total = sum(part.item_count for part in turn) or 1
        callers = {part.work.caller for part in turn}
        for work, start, stop in turn:
            share = seconds * max(1, stop - start) / total
            self._used[work.caller] = self._used.get(work.caller, self._start) + share
        self._level += seconds / len(callers | self._waiting.keys())
        self._turn = max(seconds, FADING * self._turn)
        # A caller that returns starts at ``_start`` anyway.
        self._used = {name: used for name, used in self._used.items() if name in self._waiting or used > self._start}
        self._free_pixels += self._pixels(turn[0].work, turn[0].start)

    @property
    def _start(self) -> float:
        return self._level - self._turn

    def _first(self) -> Work:
        return next(iter(self._waiting[min(self._waiting, key=self._used.__getitem__)]))

    def _pixels(self, work: Work, index: int | None = None) -> float:
        index = work.begun if index is None else index
        return min(work.pixels[index], self._max_pixels) if work.pixels else 0

    def _fill_batch(self, first: Work, starts: dict[Work, int]) -> None:
        """Fill a batch: half for ``first``, then one item a request in turn of callers, then the oldest requests."""
        room = first.batch - first.begin(max(1, first.batch // 2))
        callers = sorted(self._waiting, key=self._used.__getitem__) if room else []
        for work in _in_turn([_equal(self._waiting[caller], first) for caller in callers]):
            if room == 0:
                break
            starts[work] = work.begun
            room -= work.begin(1)
        for work in sorted(starts, key=lambda one: one.arrived):
            room -= work.begin(room)


def _equal(line: Iterable[Work], first: Work) -> Iterator[Work]:
    return (work for work in line if work is not first and work.function == first.function)


def _in_turn(lines: Sequence[Iterator[Work]]) -> Iterator[Work]:
    while lines:
        left = []
        for line in lines:
            work = next(line, None)
            if work is not None:
                yield work
                left.append(line)
        lines = left


class FairQueue:
    """Queue of all decoding and scoring: one scoring thread, and threads for small and for large images to decode.

    Limits on images and pixels bound accepted work, those on requests the wait of small ones.
    """

    def __init__(
        self,
        capacity: int,
        requests: int,
        metrics: ServiceMetrics,
        largest: int = 0,
        max_pixels: int = MAX_PIXELS,
        decoders: int = DECODERS,
    ) -> None:
        self.capacity = capacity
        self.largest = max((capacity + 1) // 2, min(largest, capacity))
        self._metrics = metrics
        self._images = FairShares(capacity, self.largest)
        self._requests = FairShares(requests)
        self._pixels = FairShares(max_pixels, max_pixels)
        self._seconds_per_image = 0.01
        self._closing = False
        self._turn_began: float | None = None
        self._lock = threading.Lock()
        self._scoring, self._small = Lane(self._lock), Lane(self._lock)
        self._large = Lane(self._lock, max_pixels)
        lanes = [("scoring", self._scoring), *[("decoding", lane) for lane in (self._small, self._large)] * decoders]
        self._threads = [
            threading.Thread(target=self._loop, args=(lane,), name=name, daemon=True) for name, lane in lanes
        ]

    @property
    def images(self) -> int:
        """Images that wait or are scored, each once per pass."""
        return self.capacity - self._images.free

    @property
    def turn_s(self) -> float:
        """Seconds since the current turn of scoring began, 0 if idle. Never blocks."""
        began = self._turn_began
        return 0.0 if began is None else time.perf_counter() - began

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Refuse new work and images to decode with 503, finish the scoring, and log a thread that hangs."""
        with self._lock:
            self._closing = True
            refused = self._small.clear() + self._large.clear()
            for lane in (self._scoring, self._small, self._large):
                lane.changed.notify_all()
        for work in refused:
            work.error = draining()
        _wake(refused)
        end = time.perf_counter() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.perf_counter()))
            if thread.is_alive():
                log.error("the %s thread did not end within %g s; its work is given up", thread.name, timeout_s)

    async def run(self, caller: str, steps: Steps[T], images: int) -> T:
        """Run steps of about a batch's time in turns of their own; cancelling ends them. ``Problem`` 429 or 503."""
        work = Work(caller, images, asyncio.get_running_loop().create_future(), steps=steps, waiting=UNSHARED)
        result: T = await self._result(self._scoring, work)
        return result

    async def run_each(
        self,
        caller: str,
        function: Callable[[Sequence[Item]], Sequence[T]],
        items: Sequence[Item],
        images_an_item: int = 1,
        at_once: int = BATCH,
    ) -> list[T]:
        """Apply a function in batches shared with equal functions; its error fails all. ``Problem`` 429 or 503."""
        if not items:
            return []
        batch = max(1, at_once // images_an_item)
        future = asyncio.get_running_loop().create_future()
        work = Work(caller, len(items) * images_an_item, future, function, items, batch, waiting=1)
        results: list[T] = await self._result(self._scoring, work)
        return results

    async def decode(
        self,
        caller: str,
        function: Callable[[Item], T],
        items: Sequence[Item],
        sizes: Sequence[int],
        pixels: Sequence[int] = (),
    ) -> list[T]:
        """Apply a function to files of so many bytes and pixels; cancelling ends what has not begun. 503 at the end."""
        if not items:
            return []

        def decode_all(values: Sequence[Item]) -> list[T]:
            return [function(value) for value in values]

        small = max(sizes) <= SMALL_BYTES and max(pixels, default=0) <= SMALL_PIXELS
        work = Work(caller, 0, asyncio.get_running_loop().create_future(), decode_all, items, pixels=pixels)
        results: list[T] = await self._result(self._small if small else self._large, work)
        return results

    def check(self, caller: str, images: int = 1) -> None:
        """Raise ``Problem`` 429 if the queue cannot take a request; nothing is reserved."""
        self._reserve(caller, 1, images)
        self._requests.give_back(caller)
        self._images.give_back(caller, images)

    @contextmanager
    def hold_pixels(self, caller: str, pixels: int) -> Iterator[None]:
        """Count pixels of full-size images in the block; raise ``Problem`` 413 if never possible, 429 if not now."""
        if pixels > self._pixels.capacity:
            raise Problem(
                "too-many-pixels",
                f"images of this model keep their size, and one request may carry {self._pixels.capacity} pixels of "
                f"them, got {pixels}; split it into several",
            )
        if not self._pixels.take(caller, pixels):
            raise Problem(
                "queue-full",
                f"{pixels} pixels came, and {self._pixels.free} of {self._pixels.capacity} are free: a caller may hold "
                f"at most what stays free for others; try again in about {PIXELS_WAIT_S} s",
                retry_s=PIXELS_WAIT_S,
            )
        try:
            yield
        finally:
            self._pixels.give_back(caller, pixels)

    async def _result(self, lane: Lane, work: Work) -> Any:
        with self._lock:
            if self._closing:
                raise draining()
            self._reserve(work.caller, work.waiting, work.images)
            work.result = [None] * len(work.items)
            lane.add(work)
            lane.changed.notify_all()
        try:
            return await work.future
        finally:
            with self._lock:
                lane.remove(work)
                self._end_waiting(work)
                self._images.give_back(work.caller, work.images)

    def _reserve(self, caller: str, requests: int, images: int) -> None:
        if not self._requests.take(caller, requests):
            held = self._requests.held(caller)
            raise self._full(
                self._requests.capacity - self._requests.free,
                f"{held} requests of this caller wait for their first turn, and {self._requests.free} more of all "
                "callers may: a caller may hold at most what stays free for others",
            )
        if not self._images.take(caller, images):
            self._requests.give_back(caller, requests)
            held = self._images.held(caller)
            raise self._full(
                self.images,
                f"{held} images of this caller are waiting or in work, {images} more came, and of {self.capacity} "
                f"{self._images.free} are free: a caller may hold at most what stays free for others",
            )

    def _full(self, images: int, detail: str) -> Problem:
        wait = min(LONGEST_WAIT_S, max(1, math.ceil(images * self._seconds_per_image)))
        return Problem("queue-full", f"{detail}; try again in about {wait} s", retry_s=wait)

    def _end_waiting(self, work: Work) -> None:
        self._requests.give_back(work.caller, work.waiting)
        work.waiting = 0

    def _loop(self, lane: Lane) -> None:
        while turn := self._next(lane):
            began = time.perf_counter()
            for part in turn:
                if part.work.waiting:
                    self._metrics.waits.observe(began - part.work.arrived)
            try:
                _do(turn)
            # Any failure is raised in the requests; the thread continues.
            except BaseException as error:
                for part in turn:
                    part.work.error = error
            self._end(lane, turn, time.perf_counter() - began)
            _wake([part.work for part in turn if part.work.finished])
            if lane is self._scoring:
                self._turn_began = None

    def _next(self, lane: Lane) -> list[Part]:
        """Wait for work and return the next turn; nothing where the queue is closed."""
        with lane.changed:
            lane.changed.wait_for(lambda: lane.ready or (self._closing and not lane))
            if not lane:
                return []
            if lane is self._scoring:
                self._turn_began = time.perf_counter()
            return lane.take()

    def _end(self, lane: Lane, turn: Sequence[Part], seconds: float) -> None:
        """Account for a turn, and put unfinished steps back into the lane."""
        images = sum(part.images for part in turn)
        if images and turn[0].work.error is None:
            self._seconds_per_image += SMOOTHING * (seconds / images - self._seconds_per_image)
            self._metrics.batches.observe(images)
        with self._lock:
            lane.end(turn, seconds)
            for work, start, stop in turn:
                work.done += stop - start
                work.ended = work.ended or (work.steps is None and work.done == len(work.items))
                self._end_waiting(work)
                if work.finished:
                    lane.remove(work)
                elif work.steps is not None and not work.future.cancelled():
                    lane.add(work)
            lane.changed.notify_all()


def _do(turn: Sequence[Part]) -> None:
    """Do the work of a turn: a step of one request, or items of several requests."""
    first = turn[0].work
    if first.steps is not None:
        try:
            next(first.steps)
        except StopIteration as end:
            first.result, first.ended = end.value, True
    elif first.function is not None:
        places = [(work.result, index) for work, start, stop in turn for index in range(start, stop)]
        results = first.function([value for work, start, stop in turn for value in work.items[start:stop]])
        for (result, index), value in zip(places, results, strict=True):
            result[index] = value


def _wake(finished: Sequence[Work]) -> None:
    """Deliver all results of a turn in one call to the event loop."""
    for loop in {work.future.get_loop() for work in finished}:
        try:
            loop.call_soon_threadsafe(_deliver, [work for work in finished if work.future.get_loop() is loop])
        except RuntimeError:
            log.warning("the event loop was gone before its work was done")


def _deliver(finished: Iterable[Work]) -> None:
    for work in finished:
        if work.future.done():
            continue
        if work.error is not None:
            work.future.set_exception(work.error)
        else:
            work.future.set_result(work.result)
