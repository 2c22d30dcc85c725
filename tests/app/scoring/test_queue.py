"""The scoring thread: fair among callers, bounded, in batches and steps, and not stopped by what its work does."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from snf_app.http.errors import Problem
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_line import BATCH
from snf_app.scoring.queue import ScoringQueue
from tests.app.scoring.queued_work import ME, OTHER, Calls, Doubled, busy, noting, running, step


@pytest.fixture
def queue() -> Iterator[ScoringQueue]:
    """A queue that holds several batches, and all of them of one caller."""
    with running(10 * BATCH, largest=10 * BATCH) as made:
        yield made


def test_work_runs_in_the_one_thread_in_order(queue: ScoringQueue) -> None:
    seen: list[tuple[int, str]] = []

    def note(i: int) -> Callable[[], None]:
        return lambda: seen.append((i, threading.current_thread().name))

    async def main() -> None:
        await asyncio.gather(*(queue.run(ME, step(note(i)), 1) for i in range(8)))

    asyncio.run(main())
    assert seen == [(i, "scoring") for i in range(8)]


def test_an_idle_thread_takes_what_is_there(queue: ScoringQueue) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        assert await queue.run_each(ME, twice, [1]) == [2]
        assert await queue.run_each(ME, twice, [2, 3]) == [4, 6]
        assert await queue.run_each(ME, twice, []) == []

    asyncio.run(main())
    assert calls == [("twice", [1]), ("twice", [2, 3])]


def test_what_queues_behind_work_shares_a_call_and_a_wake_up(
    queue: ScoringQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    wake_ups: list[Callable[..., object]] = []
    twice = Doubled("twice", calls)

    async def main() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def counted(callback: Callable[..., object], *arguments: Any, **named: Any) -> asyncio.Handle:
            wake_ups.append(callback)
            return original(callback, *arguments, **named)

        async with busy(queue):
            tasks = [asyncio.create_task(queue.run_each(ME, twice, [i, i + 100])) for i in range(4)]
            monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        found = await asyncio.gather(*tasks)
        monkeypatch.undo()
        return found

    assert asyncio.run(main()) == [[2 * i, 2 * i + 200] for i in range(4)]
    assert [(name, sorted(items)) for name, items in calls] == [("twice", [0, 1, 2, 3, 100, 101, 102, 103])]
    # One for the work that held the thread, one for the batch.
    assert len(wake_ups) == 2


def test_a_single_image_is_in_the_next_batch_beside_large_requests_of_all_others(queue: ScoringQueue) -> None:
    calls: Calls = []
    one = Doubled("one", calls)

    async def main() -> None:
        async with busy(queue):
            large = [asyncio.create_task(queue.run_each(f"greedy {i}", one, [i] * 2 * BATCH)) for i in range(3)]
            await asyncio.sleep(0)
            single = asyncio.create_task(queue.run_each(ME, one, [1000]))
        assert await single == [2000]
        assert [len(found) for found in await asyncio.gather(*large)] == [2 * BATCH] * 3

    asyncio.run(main())
    assert 1000 in calls[0][1]
    assert [len(items) for _, items in calls] == [BATCH] * 6 + [1]


def test_steps_of_requests_take_turns(queue: ScoringQueue) -> None:
    calls: Calls = []

    async def main() -> list[str]:
        async with busy(queue):
            tasks = [asyncio.create_task(queue.run(ME, noting(name, calls, 3), 32)) for name in ("a", "b")]
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["a", "b"]
    assert calls == [(name, [number]) for number in range(3) for name in ("a", "b")]


def test_draws_count_in_a_batch_and_in_the_queue(queue: ScoringQueue) -> None:
    calls: Calls = []
    quarter, many = Doubled("quarter", calls), Doubled("many", calls)

    async def main() -> None:
        async with busy(queue):
            tasks = [asyncio.create_task(queue.run_each(ME, quarter, [i], BATCH // 4)) for i in range(5)]
            tasks.append(asyncio.create_task(queue.run_each(OTHER, many, [5, 6], 2 * BATCH)))
            await asyncio.sleep(0)
            assert queue.images == 1 + 5 * BATCH // 4 + 4 * BATCH
        await asyncio.gather(*tasks)
        assert queue.images == 0

    asyncio.run(main())
    assert sorted(items for _, items in calls) == [[0, 1, 2, 3], [4], [5], [6]]


def test_large_images_come_in_small_batches(queue: ScoringQueue) -> None:
    calls: Calls = []

    async def main() -> None:
        await queue.run_each(ME, Doubled("large", calls), list(range(5)), at_once=2)

    asyncio.run(main())
    assert [items for _, items in calls] == [[0, 1], [2, 3], [4]]


def test_a_caller_holds_what_stays_free_for_others_and_alone_one_large_request() -> None:
    async def main() -> None:
        with running(100, largest=70) as queue:
            async with busy(queue):
                held = asyncio.create_task(queue.run_each(ME, list, [0] * 49))
                await asyncio.sleep(0)
                with pytest.raises(Problem) as caught:
                    await queue.run_each(ME, list, [0] * 10)
                assert (caught.value.status, caught.value.slug) == (429, "queue-full")
                assert int(caught.value.headers["Retry-After"]) >= 1
                with pytest.raises(Problem):
                    queue.check(ME, 10)
                queue.check(OTHER, 20)
                other = asyncio.create_task(queue.run_each(OTHER, list, [0] * 20))
                await asyncio.sleep(0)
                assert queue.images == 70
            await asyncio.gather(held, other)
            assert queue.images == 0
            assert len(await queue.run_each(ME, list, [0] * 70)) == 70

    asyncio.run(main())


def test_the_requests_that_wait_for_their_first_turn_are_bounded() -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        assert gate.wait(60)
        return items

    async def main() -> None:
        with running(10_000, requests=16) as queue:
            async with busy(queue):
                # The one in hand of another caller counts, so 15 are left: 8 are at most one more than what stays free.
                waiting = [asyncio.create_task(queue.run_each(ME, slow, [0] * 3 * BATCH)) for _ in range(4)]
                await asyncio.sleep(0)
                with pytest.raises(Problem) as caught:
                    queue.check(ME)
                assert "first turn" in caught.value.detail
                queue.check(OTHER)
            await asyncio.to_thread(begun.wait, 60)
            gate.set()
            while queue.images > 9 * BATCH:
                await asyncio.sleep(0.001)
            # Large requests that have begun are no reason to refuse a small one.
            queue.check(ME)
            await asyncio.gather(*waiting)

    asyncio.run(main())


def test_64_clients_of_one_caller_are_not_refused() -> None:
    async def client(queue: ScoringQueue, one: Doubled) -> None:
        for _ in range(5):
            assert await queue.run_each(ME, one, [1]) == [2]

    async def main() -> None:
        with running(4096) as queue:
            one = Doubled("one", [])
            await asyncio.gather(*(client(queue, one) for _ in range(64)))

    asyncio.run(main())


def test_batches_and_waits_are_measured() -> None:
    metrics = ServiceMetrics()
    twice = Doubled("twice", [])

    async def main() -> None:
        with running(10 * BATCH, metrics=metrics) as queue:
            async with busy(queue):
                tasks = [
                    asyncio.create_task(queue.run_each(ME, twice, items)) for items in (range(BATCH + 4), [1], [2])
                ]
            await asyncio.gather(*tasks)

    asyncio.run(main())
    value = metrics.registry.get_sample_value
    # A full batch, and what was left of the large request.
    assert (value("snf_batch_images_count"), value("snf_batch_images_sum")) == (2, BATCH + 6)
    assert value("snf_batch_images_bucket", {"le": "8.0"}) == 1
    # Every request once, in however many turns it was done.
    assert value("snf_queue_wait_seconds_count") == 4
