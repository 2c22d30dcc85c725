"""The scoring queue: one thread runs all models, fairly among callers; batches grow while it is busy."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem, draining
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_line import BATCH, FairLine, WorkItem
from snf_runtime.steps import Steps

Item = TypeVar("Item")
T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the newest measurement in the running mean of seconds an image."""
LONGEST_WAIT_S = 60
"""Longest wait that a refusal asks for, in seconds."""

CLOSE_S = 5.0
"""Longest wait for the turn of the scoring thread at the end, in seconds."""

log = logging.getLogger(__name__)


class ScoringQueue:
    """Queue with one scoring thread; limits on images bound accepted work, those on requests the wait of small ones."""

    def __init__(self, capacity: int, requests: int, metrics: ServiceMetrics, largest: int = 0) -> None:
        self.capacity = capacity
        self.largest = max((capacity + 1) // 2, min(largest, capacity))
        self._metrics = metrics
        self._images = FairShares(capacity, self.largest)
        self._requests = FairShares(requests)
        self._line = FairLine()
        self._seconds_per_image = 0.01
        self._closing = False
        self._turn_began: float | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="scoring", daemon=True)

    @property
    def images(self) -> int:
        """Images that wait or are scored, each once per pass."""
        return self.capacity - self._images.free

    @property
    def turn_s(self) -> float:
        """Seconds since the current turn began, 0 if idle; that of a dead thread never ends. Never blocks."""
        began = self._turn_began
        return 0.0 if began is None else time.perf_counter() - began

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Refuse new work with 503, finish the accepted work, and log a thread that hangs."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("the scoring thread did not end within %g s; its work is given up", timeout_s)

    async def run(self, caller: str, steps: Steps[T], images: int) -> T:
        """Run steps of about a batch's time in turns of their own; cancelling ends them. ``Problem`` 429 or 503."""
        result: T = await self._result(
            WorkItem(caller, images, asyncio.get_running_loop().create_future(), steps=steps)
        )
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
        future = asyncio.get_running_loop().create_future()
        room = max(1, at_once // images_an_item)
        work = WorkItem(caller, len(items) * images_an_item, future, function, items, room, result=[])
        results: list[T] = await self._result(work)
        return results

    def check(self, caller: str, images: int = 1) -> None:
        """Raise ``Problem`` 429 if the queue cannot take a request; nothing is reserved."""
        if not self._requests.take(caller):
            raise self._too_many_requests(caller)
        self._requests.give_back(caller)
        if not self._images.take(caller, images):
            raise self._too_many_images(caller, images)
        self._images.give_back(caller, images)

    async def _result(self, item: WorkItem) -> Any:
        with self._changed:
            if self._closing:
                raise draining()
            if not self._requests.take(item.caller, item.waiting):
                raise self._too_many_requests(item.caller)
            if not self._images.take(item.caller, item.images):
                self._requests.give_back(item.caller, item.waiting)
                raise self._too_many_images(item.caller, item.images)
            self._line.add(item)
            self._changed.notify()
        try:
            return await item.future
        finally:
            with self._changed:
                self._line.remove(item)
                self._start(item)
                self._images.give_back(item.caller, item.images)

    def _start(self, item: WorkItem) -> None:
        if not item.started:
            item.started = True
            self._requests.give_back(item.caller, item.waiting)

    def _too_many_requests(self, caller: str) -> Problem:
        held = self._requests.held(caller)
        return self._full(
            self._requests.capacity - self._requests.free,
            f"{held} requests of this caller wait for their first turn, and {self._requests.free} more of all callers "
            "may: a caller may hold at most what stays free for others",
        )

    def _too_many_images(self, caller: str, images: int) -> Problem:
        held = self._images.held(caller)
        return self._full(
            self.images,
            f"{held} images of this caller are waiting or in work, {images} more came, and of {self.capacity} "
            f"{self._images.free} are free: a caller may hold at most what stays free for others",
        )

    def _full(self, images: int, detail: str) -> Problem:
        wait = min(LONGEST_WAIT_S, max(1, math.ceil(images * self._seconds_per_image)))
        return Problem(
            429,
            "queue-full",
            "The scoring queue is full",
            f"{detail}; try again in about {wait} s",
            headers={"Retry-After": str(wait)},
        )

    def _loop(self) -> None:
        while batch := self._next():
            began = time.perf_counter()
            self._metrics.observe_waits([began - item.arrived for item in batch if not item.started])
            try:
                _do(batch)
            # Any failure is raised in the requests; the thread continues.
            except BaseException as error:
                for item in batch:
                    item.error = error
            self._count(batch, time.perf_counter() - began)
            _wake([item for item in batch if item.finished])
            self._turn_began = None

    def _next(self) -> list[WorkItem]:
        """Wait for work and return that of the next turn; nothing where the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closing)
            if not self._line:
                return []
            self._turn_began = time.perf_counter()
            return self._line.take()

    def _count(self, batch: Sequence[WorkItem], seconds: float) -> None:
        """Account for a turn, and put its unfinished work back into the line."""
        images = sum(item.images_in_hand for item in batch)
        if images and batch[0].error is None:
            self._seconds_per_image += SMOOTHING * (seconds / images - self._seconds_per_image)
            self._metrics.observe_batch(images)
        with self._changed:
            self._line.charge(batch, seconds)
            for item in batch:
                item.in_hand = 0
                self._start(item)
                if not (item.finished or item.abandoned):
                    self._line.add(item)


def _do(batch: Sequence[WorkItem]) -> None:
    """Do the work of a turn: a step of one request, or a batch of several requests."""
    first = batch[0]
    if first.steps is not None:
        try:
            next(first.steps)
        except StopIteration as end:
            first.result, first.ended = end.value, True
    elif first.function is not None:
        owners = [item for item in batch for _ in range(item.in_hand)]
        results = first.function([value for item in batch for value in item.part])
        for item, result in zip(owners, results, strict=True):
            item.result.append(result)
        for item in batch:
            item.ended = len(item.result) == len(item.items)


def _wake(finished: Sequence[WorkItem]) -> None:
    """Deliver all results of a batch in one call to the event loop."""
    for loop in {item.future.get_loop() for item in finished}:
        try:
            loop.call_soon_threadsafe(_deliver, [item for item in finished if item.future.get_loop() is loop])
        except RuntimeError:
            log.warning("the event loop was gone before its work was done")


def _deliver(finished: Iterable[WorkItem]) -> None:
    for item in finished:
        if item.future.done():
            continue
        if item.error is not None:
            item.future.set_exception(item.error)
        else:
            item.future.set_result(item.result)
