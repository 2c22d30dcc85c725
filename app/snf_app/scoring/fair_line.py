"""Queue that orders scoring work fairly among callers, and among the requests of each caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from snf_runtime.steps import STEP, Steps

BATCH = STEP
"""Most images, each once per draw, in a batch: few enough that clients send again while the next one is scored."""

UNSHARED = BATCH // 4
"""Number of waiting requests that a request with unshared steps counts as, because each of its turns takes a step."""

FADING = 0.98
"""Factor on the remembered longest turn, at every turn."""


@dataclass(eq=False)
class WorkItem:
    """Work of one request: a function of items, which shares batches with equal functions, or steps of its own."""

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
        """The weight against the limit on waiting requests: 1 for a function, 8 for steps."""
        return UNSHARED if self.function is None else 1

    @property
    def abandoned(self) -> bool:
        """Whether the request was cancelled."""
        return self.future.cancelled()

    @property
    def finished(self) -> bool:
        return self.ended or self.error is not None

    @property
    def part(self) -> Sequence[Any]:
        """The items in the current batch."""
        begin = len(self.result)
        return self.items[begin : begin + self.in_hand]

    @property
    def images_in_hand(self) -> int:
        """The images in the current batch, each once per draw."""
        return self.in_hand * self.images // len(self.items) if self.items else 0

    def take(self, most: int) -> int:
        """Add up to ``most`` items to the current batch, and return how many."""
        taken = min(most, len(self.items) - len(self.result) - self.in_hand)
        self.in_hand += taken
        return taken


class FairLine:
    """Fair queue over callers (Demers, Keshav, Shenker 1989), by seconds; waiting saves up no time. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[WorkItem, None]] = {}
        self._used: dict[str, float] = {}
        self._level = 0.0
        self._turn = 0.0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, item: WorkItem) -> None:
        if item.caller not in self._lines:
            self._lines[item.caller] = {}
            self._used[item.caller] = max(self._start, self._used.get(item.caller, self._start))
        self._lines[item.caller][item] = None

    def remove(self, item: WorkItem) -> None:
        """Remove work, if it is there."""
        line = self._lines.get(item.caller)
        if line is not None and item in line:
            del line[item]
            if not line:
                del self._lines[item.caller]

    def take(self) -> list[WorkItem]:
        """Remove and return the next work: one generator, or requests that share a batch."""
        first = next(iter(self._lines[self._order()[0]]))
        batch = [first] if first.function is None else self._batch(first)
        for item in batch:
            self.remove(item)
        return batch

    def charge(self, batch: Sequence[WorkItem], seconds: float) -> None:
        """Divide the seconds of a batch among its callers by their items."""
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
        """Fill a batch: half for ``first``, then one item a request in turn of callers, then the oldest requests."""
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
    while lines:
        left = []
        for line in lines:
            item = next(line, None)
            if item is not None:
                yield item
                left.append(line)
        lines = left
