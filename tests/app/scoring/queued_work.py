"""Work for a scoring queue, and queues that run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.queue import ScoringQueue
from snf_runtime.steps import Steps

T = TypeVar("T")
Calls = list[tuple[str, list[Any]]]
ME, OTHER, THIRD = "address:127.0.0.1", "address:127.0.0.2", "key:third"


@contextmanager
def running(
    capacity: int, requests: int = 128, largest: int = 0, metrics: ServiceMetrics | None = None
) -> Iterator[Any]:
    made = ScoringQueue(capacity, requests, metrics or ServiceMetrics(), largest)
    made.start()
    yield made
    made.close()


class Doubled:
    """A function that notes its calls and doubles every item; items that are text fail their batch."""

    def __init__(self, name: str, calls: Calls) -> None:
        self.name = name
        self.calls = calls

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.calls.append((self.name, list(items)))
        if any(isinstance(item, str) for item in items):
            raise ValueError("an item is text")
        return [2 * item for item in items]


def step(work: Callable[[], T]) -> Steps[T]:
    """Work of one step."""
    return work()
    yield


def noting(name: str, calls: Calls, steps: int) -> Steps[str]:
    """Work that notes every one of its steps."""
    for number in range(steps):
        if number:
            yield
        calls.append((name, [number]))
    return name


@asynccontextmanager
async def busy(queue: ScoringQueue) -> AsyncIterator[None]:
    """While it is open the thread is busy; what the block starts has been queued when it ends."""
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert gate.wait(60)

    held = asyncio.create_task(queue.run(THIRD, step(hold), 1))
    await asyncio.to_thread(begun.wait, 60)
    yield
    await asyncio.sleep(0)
    gate.set()
    await held
