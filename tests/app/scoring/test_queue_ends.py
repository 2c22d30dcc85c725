"""How work in the scoring queue ends early: deadlines, errors, callers that leave, and the end of the service."""

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from snf_app.http.admission import deadline
from snf_app.http.errors import Problem
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_line import BATCH
from snf_app.scoring.queue import ScoringQueue
from snf_runtime.steps import Steps
from tests.app.scoring.queued_work import ME, OTHER, Calls, Doubled, busy, noting, running, step


@pytest.fixture
def queue() -> Iterator[ScoringQueue]:
    """A queue that holds several batches, and all of them of one caller."""
    with running(10 * BATCH, largest=10 * BATCH) as made:
        yield made


def test_work_whose_deadline_passes_in_the_queue_is_not_done(queue: ScoringQueue) -> None:
    done: list[str] = []

    async def main() -> None:
        async with busy(queue):
            with pytest.raises(Problem) as caught:
                async with deadline(50, 30.0):
                    await queue.run(ME, step(lambda: done.append("late")), 1)
            assert caught.value.status == 504
            assert queue.images == 1
        await queue.run(ME, step(lambda: None), 1)

    asyncio.run(main())
    assert done == []


def test_work_in_hand_stops_after_its_step(queue: ScoringQueue) -> None:
    parts: list[int] = []
    waited = threading.Event()

    def work() -> Steps[None]:
        for part in range(1000):
            parts.append(part)
            waited.wait(0.01)
            yield

    async def main() -> None:
        with pytest.raises(Problem):
            async with deadline(100, 30.0):
                await queue.run(ME, work(), 5)
        await queue.run(ME, step(lambda: None), 5)
        assert queue.images == 0

    asyncio.run(main())
    assert 0 < len(parts) < 1000


def test_an_error_goes_to_its_caller_and_the_thread_lives_on(queue: ScoringQueue) -> None:
    def broken() -> None:
        raise MemoryError("too much")

    async def main() -> None:
        with pytest.raises(MemoryError, match="too much"):
            await queue.run(ME, step(broken), 4)
        assert await queue.run(ME, step(lambda: 7), 10) == 7

    asyncio.run(main())


def test_a_batch_that_fails_fails_all_of_it_and_no_other(queue: ScoringQueue) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        async with busy(queue):
            tasks = [asyncio.create_task(queue.run_each(ME, twice, [item])) for item in (1, "two", 3)]
            other = asyncio.create_task(queue.run_each(ME, Doubled("other", calls), [4]))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(one) for one in found] == ["an item is text"] * 3
        assert await other == [8]
        assert await queue.run_each(ME, twice, [5]) == [10]
        assert queue.images == 0

    asyncio.run(main())


def test_too_few_results_are_an_error_and_no_endless_wait(queue: ScoringQueue) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="shorter"):
            await queue.run_each(ME, lambda items: items[1:], [1, 2])

    asyncio.run(main())


def test_a_request_that_has_ended_is_not_in_the_batch(queue: ScoringQueue) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)

    async def main() -> None:
        async with busy(queue):
            stays = asyncio.create_task(queue.run_each(ME, twice, [1]))
            with pytest.raises(Problem) as caught:
                async with deadline(20, 30.0):
                    await queue.run_each(ME, twice, [2, 3])
            assert caught.value.status == 504
            assert queue.images == 2
        assert await stays == [2]

    asyncio.run(main())
    assert calls == [("twice", [1])]


def test_the_rest_of_a_large_request_is_not_done_when_its_caller_leaves(queue: ScoringQueue) -> None:
    calls: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        begun.set()
        assert gate.wait(60)
        return items

    async def main() -> None:
        large = asyncio.create_task(queue.run_each(ME, slow, range(3 * BATCH)))
        await asyncio.to_thread(begun.wait, 60)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        assert queue.images == 0
        gate.set()
        assert await queue.run_each(ME, slow, [1]) == [1]

    asyncio.run(main())
    assert calls == [BATCH, 1]


def test_closing_finishes_what_is_accepted() -> None:
    calls: Calls = []

    async def main() -> None:
        with running(10 * BATCH) as queue:
            large = asyncio.create_task(queue.run_each(ME, Doubled("twice", calls), range(3 * BATCH)))
            steps = asyncio.create_task(queue.run(OTHER, noting("steps", [], 3), 1))
            await asyncio.sleep(0)
            await asyncio.to_thread(queue.close)
            assert await large == [2 * item for item in range(3 * BATCH)]
            assert await steps == "steps"
            with pytest.raises(Problem, match="no new work"):
                await queue.run(ME, step(lambda: None), 1)

    asyncio.run(main())
    assert [len(items) for _, items in calls] == [BATCH] * 3


def test_a_thread_that_hangs_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    queue, hung, released = ScoringQueue(BATCH, 128, ServiceMetrics()), threading.Event(), threading.Event()

    def hang() -> None:
        hung.set()
        released.wait(60)

    async def main() -> None:
        waiting = asyncio.create_task(queue.run("caller", step(hang), 1))
        await asyncio.to_thread(hung.wait, 60)
        queue.close(timeout_s=0.05)
        assert "the scoring thread did not end within 0.05 s; its work is given up" in caplog.messages
        released.set()
        await waiting

    queue.start()
    asyncio.run(main())
    queue.close()
