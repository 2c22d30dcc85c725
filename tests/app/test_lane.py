"""The scoring thread: bounded in images, in order, and not stopped by anything that its work does."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from app.deadline import deadline
from app.lane import Lane, Ticket
from app.problems import Problem


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane(capacity=10)
    made.start()
    yield made
    made.close()


def test_work_runs_in_the_one_thread_in_order(lane: Lane) -> None:
    seen: list[tuple[int, str]] = []

    def note(i: int) -> Callable[[Ticket], None]:
        return lambda _: seen.append((i, threading.current_thread().name))

    async def main() -> None:
        await asyncio.gather(*(lane.run(note(i), 1) for i in range(10)))

    asyncio.run(main())
    assert seen == [(i, "scoring") for i in range(10)]


def test_images_past_the_capacity_are_refused_and_counted_back(lane: Lane) -> None:
    gate = threading.Event()

    async def main() -> None:
        first = asyncio.create_task(lane.run(lambda _: gate.wait(10), 8))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem) as caught:
            await lane.run(lambda _: None, 3)
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        second = asyncio.create_task(lane.run(lambda _: "done", 2))
        await asyncio.sleep(0)
        gate.set()
        assert await first
        assert await second == "done"
        assert lane.images == 0

    asyncio.run(main())


def test_work_whose_deadline_passes_in_the_queue_is_not_done(lane: Lane) -> None:
    gate = threading.Event()
    done: list[str] = []

    async def main() -> None:
        first = asyncio.create_task(lane.run(lambda _: gate.wait(10), 1))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem) as caught:
            async with deadline(50, 30.0):
                await lane.run(lambda _: done.append("late"), 1)
        assert caught.value.status == 504
        assert lane.images == 1
        gate.set()
        await first
        await lane.run(lambda _: None, 1)

    asyncio.run(main())
    assert done == []


def test_work_in_hand_stops_at_its_next_check(lane: Lane) -> None:
    parts: list[int] = []
    waited = threading.Event()

    def work(ticket: Ticket) -> None:
        for part in range(1000):
            ticket.check()
            parts.append(part)
            waited.wait(0.01)

    async def main() -> None:
        with pytest.raises(Problem):
            async with deadline(100, 30.0):
                await lane.run(work, 5)
        await lane.run(lambda _: None, 5)
        assert lane.images == 0

    asyncio.run(main())
    assert 0 < len(parts) < 1000


def test_an_error_goes_to_its_caller_and_the_thread_lives_on(lane: Lane) -> None:
    def broken(_: Ticket) -> None:
        raise MemoryError("too much")

    async def main() -> None:
        with pytest.raises(MemoryError, match="too much"):
            await lane.run(broken, 4)
        assert await lane.run(lambda _: 7, 10) == 7

    asyncio.run(main())


def test_closing_finishes_what_is_queued() -> None:
    lane = Lane(10)
    lane.start()
    done: list[int] = []

    def note(i: int) -> Callable[[Ticket], None]:
        return lambda _: done.append(i)

    async def main() -> None:
        tasks = [asyncio.create_task(lane.run(note(i), 1)) for i in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(lane.close)
        await asyncio.gather(*tasks)
        with pytest.raises(Problem, match="no new work"):
            await lane.run(lambda _: None, 1)

    asyncio.run(main())
    assert done == [0, 1, 2, 3, 4]
