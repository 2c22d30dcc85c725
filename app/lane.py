"""The scoring thread: one thread that alone touches the scorers, behind a bounded queue."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.problems import Problem, draining

T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the newest measurement in the running mean of seconds an image."""

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """Raised inside a piece of work whose caller has stopped waiting."""


@dataclass(eq=False)
class Ticket:
    """A piece of work in the lane; the work calls `check` between its parts."""

    work: Callable[[Ticket], Any]
    images: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    abandoned: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises `Abandoned` when nobody waits for the rest of the work."""
        if self.abandoned.is_set():
            raise Abandoned


class Lane:
    """Runs work in order of arrival in one thread; holds at most `capacity` images, those in work too.

    An image that passes the flow several times, once a draw, counts as many: it is time that has to be bounded.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._queue: deque[Ticket] = deque()
        self._images = 0
        self._seconds_per_image = 0.01
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="scoring", daemon=True)

    @property
    def images(self) -> int:
        """Images waiting and in work."""
        return self._images

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Lets the work that is queued finish, then ends the thread; waits for it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    async def run(self, work: Callable[[Ticket], T], images: int) -> T:
        """Runs `work` in the scoring thread; raises a 429 problem when its images do not fit in the queue.

        Cancelling the waiting task, as a deadline does, takes the work back or stops it at its next check.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(work, images, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise draining()
            if self._images + images > self.capacity:
                raise self._full(images)
            self._images += images
            self._queue.append(ticket)
            self._changed.notify()
        try:
            result: T = await ticket.future
            return result
        except asyncio.CancelledError:
            ticket.abandoned.set()
            with self._changed:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                    self._images -= images
            raise

    def _full(self, images: int) -> Problem:
        wait = min(60, max(1, math.ceil(self._images * self._seconds_per_image)))
        return Problem(
            429,
            "queue-full",
            "The scoring queue is full",
            f"{self._images} images are waiting or in work and {images} more do not fit in {self.capacity}; "
            f"try again in about {wait} s",
            headers={"Retry-After": str(wait)},
        )

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                ticket = self._queue.popleft()
            started = time.monotonic()
            result: Any = None
            error: BaseException | None = None
            try:
                ticket.check()
                result = ticket.work(ticket)
                took = (time.monotonic() - started) / ticket.images
                self._seconds_per_image += SMOOTHING * (took - self._seconds_per_image)
            except Abandoned:
                log.info("work on %d images was given up: its deadline passed", ticket.images)
            # Whatever fails is the caller's to answer; the thread has to live on.
            except BaseException as caught:
                error = caught
            finally:
                with self._changed:
                    self._images -= ticket.images
            try:
                ticket.loop.call_soon_threadsafe(_deliver, ticket.future, result, error)
            except RuntimeError:
                log.warning("the event loop was gone before its work was done")


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
