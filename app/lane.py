"""The scoring thread: one thread that alone touches the scorers, behind one queue that is bounded in images.

A ticket asks for a function of each of its items, its images. Whenever the thread is free it takes the oldest ticket at
once, and fills the batch up with what others in the queue want of an equal function. It never waits for more to come:
batches grow while the thread is busy. What a batch leaves of a ticket queues again behind all others, so that a single
image waits for one batch of a large request and not for the whole of it. Every batch begins with the oldest ticket, so
that nobody starves. Work that cannot be shared is a function that equals no other, of one item.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.metrics import Metrics
from app.problems import Problem, draining

Item = TypeVar("Item")
T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the newest measurement in the running mean of seconds an image."""
BATCH = 32
"""Images in a batch, each counted once a draw, unless a single one counts more.

Several waves of an engine, and few enough that while one batch is scored the callers of the last one can come again:
were all of many clients in one batch, the thread would have nothing to do until they were all answered.
"""

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """Raised inside a piece of work whose caller has stopped waiting."""


@dataclass(eq=False)
class Ticket:
    """What one caller wants; `part` is what the scoring thread has in hand of it, `done` the results so far."""

    function: Callable[[Sequence[Any]], Sequence[Any]]
    items: Sequence[Any]
    images_an_item: int
    future: asyncio.Future[Any]
    arrived: float = field(default_factory=time.perf_counter)
    part: Sequence[Any] = ()
    done: list[Any] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def images(self) -> int:
        """What the ticket counts in the queue."""
        return len(self.items) * self.images_an_item

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the results any more."""
        return self.future.cancelled()

    @property
    def finished(self) -> bool:
        """Whether every item has its result, or none will get one."""
        return self.error is not None or len(self.done) == len(self.items)

    def take(self, room: int) -> int:
        """Takes at most so many of the items without a result in hand, and answers how many."""
        self.part = self.items[len(self.done) : len(self.done) + room]
        return len(self.part)

    def check(self) -> None:
        """Raises `Abandoned` when nobody waits for the rest of the work."""
        if self.abandoned:
            raise Abandoned


class Lane:
    """Runs work in one thread; holds at most `capacity` images, those in work too.

    An image that passes the flow several times, once a draw, counts as many: it is time that has to be bounded.
    """

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self.capacity = capacity
        self._metrics = metrics
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
        """Runs `work` by itself in the scoring thread; raises a 429 problem when its images do not fit in the queue.

        Also raises what `work` does, and a 503 problem once the lane closes. Cancelling the waiting task, as a deadline
        does, takes the work back or stops it at its next `check`.
        """

        def alone(items: Sequence[Any]) -> list[T]:
            return [work(ticket) for _ in items]

        ticket = Ticket(alone, [None], images, asyncio.get_running_loop().create_future())
        result: T = (await self._results(ticket))[0]
        return result

    async def run_each(
        self, function: Callable[[Sequence[Item]], Sequence[T]], items: Sequence[Item], images_an_item: int = 1
    ) -> list[T]:
        """Answers what `function` makes of each item; callers with equal functions share calls of it.

        It must answer one result an item, the same in any company; what it raises goes to all who share the call.
        Raises what `run` does. Cancelling the waiting task takes back the items that are not in hand.
        """
        return await self._results(Ticket(function, items, images_an_item, asyncio.get_running_loop().create_future()))

    async def _results(self, ticket: Ticket) -> list[Any]:
        with self._changed:
            if self._closing:
                raise draining()
            if self._images + ticket.images > self.capacity:
                raise self._full(ticket.images)
            self._images += ticket.images
            self._queue.append(ticket)
            self._changed.notify()
        try:
            found: list[Any] = await ticket.future
            return found
        finally:
            with self._changed:
                self._images -= ticket.images
                if ticket.abandoned and ticket in self._queue:
                    self._queue.remove(ticket)

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
        while batch := self._next():
            self._do(batch)
            with self._changed:
                self._queue.extend(ticket for ticket in batch if not (ticket.finished or ticket.abandoned))
            _wake([ticket for ticket in batch if ticket.finished])

    def _next(self) -> list[Ticket]:
        """Takes the oldest ticket, once there is one, and those that share its batch; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            batch: list[Ticket] = []
            room = 1
            for ticket in self._queue:
                if not batch:
                    room = max(1, BATCH // ticket.images_an_item)
                elif ticket.function != batch[0].function:
                    continue
                batch.append(ticket)
                room -= ticket.take(room)
                if room == 0:
                    break
            for ticket in batch:
                self._queue.remove(ticket)
            return batch

    def _do(self, batch: Sequence[Ticket]) -> None:
        began = time.perf_counter()
        waited_for = [ticket for ticket in batch if not ticket.abandoned]
        self._metrics.observe_waits([began - ticket.arrived for ticket in waited_for if not ticket.done])
        owners = [ticket for ticket in waited_for for _ in ticket.part]
        if not owners:
            return
        try:
            found = batch[0].function([item for ticket in waited_for for item in ticket.part])
            for ticket, result in zip(owners, found, strict=True):
                ticket.done.append(result)
        # Whatever fails is the callers' to answer; the thread has to live on.
        except BaseException as error:
            if isinstance(error, Abandoned):
                log.info("work on %d images was given up: its deadline passed", batch[0].images)
            for ticket in waited_for:
                ticket.error = error
            return
        images = len(owners) * batch[0].images_an_item
        self._seconds_per_image += SMOOTHING * ((time.perf_counter() - began) / images - self._seconds_per_image)
        self._metrics.observe_batch(images)


def _wake(finished: Sequence[Ticket]) -> None:
    """Wakes the event loop once for all of a batch."""
    for loop in {ticket.future.get_loop() for ticket in finished}:
        try:
            loop.call_soon_threadsafe(_deliver, [one for one in finished if one.future.get_loop() is loop])
        except RuntimeError:
            log.warning("the event loop was gone before its work was done")


def _deliver(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        if ticket.future.done():
            continue
        if ticket.error is not None:
            ticket.future.set_exception(ticket.error)
        else:
            ticket.future.set_result(ticket.done)
