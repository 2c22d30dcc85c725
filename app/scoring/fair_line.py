"""Queue that orders scoring work fairly among callers, and among the requests of each caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from snf_runtime.steps import STEP, Steps

BATCH = STEP
"""Most images in a batch, each counted once per draw, unless a single image counts more.

Few enough that callers of the last batch can send again while the next batch is scored. If all clients were in one
batch, the thread would be idle until all of them were answered.
"""

UNSHARED = BATCH // 4
"""Number of waiting requests that a request with unshared steps counts as, because each of its turns takes a step."""

FADING = 0.98
"""Factor on the remembered longest turn, at every turn."""


@dataclass(eq=False)
class WorkItem:
    """Work of one request in the scoring queue, with its results so far.

    It is either a function with its images, which shares batches with other requests, or a generator that runs in
    steps.

    Args:
        caller: Name of the caller that sent the request.
        images: Images of the work, each counted once per draw.
        future: Future of the results.
        function: Function that maps several items to as many results. Batches are shared with equal functions.
        items: Arguments of the function.
        room: Most items in one batch.
        steps: Work that is not shared, instead of a function.
        result: Results of the items so far, or of the steps in the end.
    """

    caller: str
    images: int
    future: asyncio.Future[Any]
    function: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    items: Sequence[Any] = ()
    room: int = 1
    steps: Steps[Any] | None = None
    result: Any = None
    arrived: float = field(default_factory=time.perf_counter)
    started: bool = False
    in_hand: int = 0
    ended: bool = False
    error: BaseException | None = None

    @property
    def waiting(self) -> int:
        """The weight with which this work counts against the limit on waiting requests.

        It is 1 for images that share batches, and 8 for a generator.
        """
        return UNSHARED if self.function is None else 1

    @property
    def abandoned(self) -> bool:
        """Whether the request was cancelled, so that the results of its work are no longer needed."""
        return self.future.cancelled()

    @property
    def finished(self) -> bool:
        """Whether the work has ended: all results are complete, or an error has occurred."""
        return self.ended or self.error is not None

    @property
    def part(self) -> Sequence[Any]:
        """The inputs of this request, such as images, that are part of the current batch."""
        begin = len(self.result)
        return self.items[begin : begin + self.in_hand]

    @property
    def images_in_hand(self) -> int:
        """The number of images that this request contributes to the current batch.

        An image scored with k random noise draws counts k times.
        """
        return self.in_hand * self.images // len(self.items) if self.items else 0

    def take(self, most: int) -> int:
        """Add up to ``most`` unprocessed items of this request to the current batch; return how many were added."""
        taken = min(most, len(self.items) - len(self.result) - self.in_hand)
        self.in_hand += taken
        return taken


class FairLine:
    """Queue of scoring work that shares computing time fairly among callers.

    The caller with the least computing time so far is served next.

    Fair queueing (Demers, Keshav, Shenker 1989) over callers, each of which is charged the seconds of its work. The
    requests of a caller take turns. ``level`` is the time that a caller would have used that had always waited. A
    caller that returns starts one turn below the level, never lower. So waiting does not save up time, and a caller
    that uses less than its share is served next whenever it returns. Not thread-safe.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[WorkItem, None]] = {}
        self._used: dict[str, float] = {}
        self._level = 0.0
        self._turn = 0.0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, item: WorkItem) -> None:
        """Add the work of a request to the queue."""
        if item.caller not in self._lines:
            self._lines[item.caller] = {}
            self._used[item.caller] = max(self._start, self._used.get(item.caller, self._start))
        self._lines[item.caller][item] = None

    def remove(self, item: WorkItem) -> None:
        """Remove the work of a request from the queue; do nothing if it is not there."""
        line = self._lines.get(item.caller)
        if line is not None and item in line:
            del line[item]
            if not line:
                del self._lines[item.caller]

    def take(self) -> list[WorkItem]:
        """Remove the work items to process next from the queue, and return them as a list.

        It is one generator, or requests that can share one batch.
        """
        first = next(iter(self._lines[self._order()[0]]))
        batch = [first] if first.function is None else self._batch(first)
        for item in batch:
            self.remove(item)
        return batch

    def charge(self, batch: Sequence[WorkItem], seconds: float) -> None:
        """Count the computing time of a batch against the callers whose items it contained.

        The ``seconds`` are divided among them in proportion to their items.
        """
        total = sum(item.in_hand for item in batch) or 1
        for item in batch:
            self._used[item.caller] = self._used.get(item.caller, self._start) + seconds * (item.in_hand or 1) / total
        self._level += seconds / len({*self._lines, *(item.caller for item in batch)})
        self._turn = max(seconds, FADING * self._turn)
        # A caller that returns starts at ``_start`` anyway.
        self._used = {name: used for name, used in self._used.items() if name in self._lines or used > self._start}

    @property
    def _start(self) -> float:
        return self._level - self._turn

    def _order(self) -> list[str]:
        return sorted(self._lines, key=self._used.__getitem__)

    def _batch(self, first: WorkItem) -> list[WorkItem]:
        """Return ``first`` and the work that shares its batch, with the items of this turn.

        Half of the batch is for the request whose turn it is. The other half takes one item per request, in turn of the
        callers, so that a single image is in the next batch however large the other requests are. The rest goes to
        the oldest requests, so that requests end one after the other.
        """
        batch, room = [first], first.room
        room -= first.take(max(1, room // 2))
        for item in _in_turn([_equal(self._lines[caller], first) for caller in self._order()]):
            if room == 0:
                break
            room -= item.take(1)
            batch.append(item)
        for item in sorted(batch, key=lambda one: one.arrived):
            room -= item.take(room)
        return batch


def _equal(line: Iterable[WorkItem], first: WorkItem) -> Iterator[WorkItem]:
    return (item for item in line if item is not first and item.function == first.function)


def _in_turn(lines: Sequence[Iterator[WorkItem]]) -> Iterator[WorkItem]:
    """Yield one element of each iterator in rotation until all iterators are exhausted."""
    while lines:
        left = []
        for line in lines:
            item = next(line, None)
            if item is not None:
                yield item
                left.append(line)
        lines = left
