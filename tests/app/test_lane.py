"""The scoring thread: bounded in images, fair, in batches, and not stopped by anything that its work does."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.deadline import deadline
from app.lane import BATCH, Lane, Ticket
from app.metrics import Metrics
from app.problems import Problem


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane(10, Metrics())
    made.start()
    yield made
    made.close()


@pytest.fixture
def wide() -> Iterator[Lane]:
    """A lane that holds more than a few batches."""
    made = Lane(10 * BATCH, Metrics())
    made.start()
    yield made
    made.close()


Calls = list[tuple[str, list[Any]]]


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


@asynccontextmanager
async def busy(lane: Lane) -> Any:
    """While it is open the thread is busy; what the block starts has been queued when it ends."""
    begun, gate = threading.Event(), threading.Event()

    def hold(_: Ticket) -> None:
        begun.set()
        assert gate.wait(60)

    held = asyncio.create_task(lane.run(hold, 1))
    await asyncio.to_thread(begun.wait, 60)
    yield
    await asyncio.sleep(0)
    gate.set()
    await held


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
    lane = Lane(10, Metrics())
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


def test_an_idle_thread_takes_what_is_there(lane: Lane) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        assert await lane.run_each(twice, [1]) == [2]
        assert await lane.run_each(twice, [2, 3]) == [4, 6]

    asyncio.run(main())
    assert calls == [("twice", [1]), ("twice", [2, 3])]


def test_what_queues_behind_work_shares_a_call_and_a_wake_up(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    wake_ups: list[Callable[..., object]] = []
    twice = Doubled("twice", calls)

    async def main() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def counted(callback: Callable[..., object], *arguments: Any, **named: Any) -> asyncio.Handle:
            wake_ups.append(callback)
            return original(callback, *arguments, **named)

        async with busy(lane):
            tasks = [asyncio.create_task(lane.run_each(twice, [i, i + 100])) for i in range(4)]
            monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        found = await asyncio.gather(*tasks)
        monkeypatch.undo()
        return found

    assert asyncio.run(main()) == [[2 * i, 2 * i + 200] for i in range(4)]
    assert calls == [("twice", [0, 100, 1, 101, 2, 102, 3, 103])]
    # One for the work that held the thread, one for the batch.
    assert len(wake_ups) == 2


def test_functions_are_not_mixed_and_the_oldest_ticket_is_next(lane: Lane) -> None:
    calls: Calls = []
    one, other = Doubled("one", calls), Doubled("other", calls)

    async def main() -> None:
        async with busy(lane):
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(lane.run_each(function, [number]))
                for number, function in enumerate((one, other, one, other))
            ]
            tasks.append(asyncio.create_task(lane.run(lambda _: calls.append(("alone", [])), 1)))
            tasks.append(asyncio.create_task(lane.run_each(one, [4])))
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert calls == [("one", [0, 2, 4]), ("other", [1, 3]), ("alone", [])]


def test_a_large_request_gives_way_after_every_batch(wide: Lane) -> None:
    calls: Calls = []
    one, other = Doubled("one", calls), Doubled("other", calls)
    large = list(range(2 * BATCH + 2))

    async def main() -> None:
        async with busy(wide):
            tasks = [
                asyncio.create_task(wide.run_each(function, items))
                for function, items in ((one, large), (other, [1]), (one, [1000]))
            ]
        assert await asyncio.gather(*tasks) == [[2 * item for item in large], [2], [2000]]

    asyncio.run(main())
    assert [(name, len(items)) for name, items in calls] == [("one", BATCH), ("other", 1), ("one", BATCH), ("one", 3)]
    assert calls[2][1] == [1000, *large[BATCH : 2 * BATCH - 1]]


def test_draws_count_in_a_batch_and_in_the_queue(wide: Lane) -> None:
    calls: Calls = []
    sixteen, many = Doubled("sixteen", calls), Doubled("many", calls)

    async def main() -> None:
        async with busy(wide):
            tasks = [asyncio.create_task(wide.run_each(sixteen, [i], BATCH // 4)) for i in range(5)]
            tasks.append(asyncio.create_task(wide.run_each(many, [5, 6], 2 * BATCH)))
            await asyncio.sleep(0)
            assert wide.images == 1 + 5 * BATCH // 4 + 4 * BATCH
            with pytest.raises(Problem) as caught:
                await wide.run_each(sixteen, list(range(20)), BATCH // 4)
            assert caught.value.status == 429
        await asyncio.gather(*tasks)
        assert wide.images == 0

    asyncio.run(main())
    assert [items for _, items in calls] == [[0, 1, 2, 3], [4], [5], [6]]


def test_a_batch_that_fails_fails_all_of_it_and_no_other(lane: Lane) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        async with busy(lane):
            tasks = [asyncio.create_task(lane.run_each(twice, [item])) for item in (1, "two", 3)]
            other = asyncio.create_task(lane.run_each(Doubled("other", calls), [4]))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(one) for one in found] == ["an item is text"] * 3
        assert await other == [8]
        assert await lane.run_each(twice, [5]) == [10]
        assert lane.images == 0

    asyncio.run(main())


def test_too_few_results_are_an_error_and_no_endless_wait(lane: Lane) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="shorter"):
            await lane.run_each(lambda items: items[1:], [1, 2])

    asyncio.run(main())


def test_who_has_left_is_not_in_the_batch(lane: Lane) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        async with busy(lane):
            stays = asyncio.create_task(lane.run_each(twice, [1]))
            with pytest.raises(Problem) as caught:
                async with deadline(20, 30.0):
                    await lane.run_each(twice, [2, 3])
            assert caught.value.status == 504
            assert lane.images == 2
        assert await stays == [2]

    asyncio.run(main())
    assert calls == [("twice", [1])]


def test_the_rest_of_a_large_request_is_not_done_when_its_caller_leaves(wide: Lane) -> None:
    calls: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        begun.set()
        assert gate.wait(60)
        return items

    async def main() -> None:
        large = asyncio.create_task(wide.run_each(slow, range(3 * BATCH)))
        await asyncio.to_thread(begun.wait, 60)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        assert wide.images == 0
        gate.set()
        assert await wide.run_each(slow, [1]) == [1]

    asyncio.run(main())
    assert calls == [BATCH, 1]


def test_closing_finishes_a_large_request() -> None:
    lane = Lane(10 * BATCH, Metrics())
    lane.start()
    calls: Calls = []

    async def main() -> None:
        large = asyncio.create_task(lane.run_each(Doubled("twice", calls), range(3 * BATCH)))
        await asyncio.sleep(0)
        await asyncio.to_thread(lane.close)
        assert await large == [2 * item for item in range(3 * BATCH)]

    asyncio.run(main())
    assert [len(items) for _, items in calls] == [BATCH] * 3


def test_batches_and_waits_are_measured() -> None:
    metrics = Metrics()
    lane = Lane(10 * BATCH, metrics)
    lane.start()
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        async with busy(lane):
            tasks = [asyncio.create_task(lane.run_each(twice, items)) for items in (range(BATCH + 4), [1], [2])]
        await asyncio.gather(*tasks)

    asyncio.run(main())
    lane.close()
    value = metrics.registry.get_sample_value
    # The one who held the thread, a full batch, and what was left with the two others.
    assert (value("snf_batch_images_count"), value("snf_batch_images_sum")) == (3, 1 + BATCH + 6)
    assert value("snf_batch_images_bucket", {"le": "8.0"}) == 2
    # Every request once, in however many batches it was done.
    assert value("snf_queue_wait_seconds_count") == 4
