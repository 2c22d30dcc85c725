"""Work for a scoring queue, and queues that run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from snf_app.http.admission import deadline
from snf_app.http.errors import Problem
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_queue import BATCH, FairQueue, Lane, Part, Work
from snf_app.scoring.service import DetectImages, RequestedImage
from snf_models.scorer import Scorer
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.parallelism import Steps

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Calls = list[tuple[str, list[Any]]]
ME, OTHER, THIRD = "address:127.0.0.1", "address:127.0.0.2", "key:third"


@contextmanager
def running(
    capacity: int, requests: int = 128, largest: int = 0, metrics: ServiceMetrics | None = None
) -> Iterator[Any]:
    made = FairQueue(capacity, requests, metrics or ServiceMetrics(), largest)
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
async def busy(queue: FairQueue) -> AsyncIterator[None]:
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


@pytest.fixture
def future() -> Iterator[asyncio.Future[Any]]:
    loop = asyncio.new_event_loop()
    yield loop.create_future()
    loop.close()


def steps() -> Steps[None]:
    yield


Make = Callable[..., Work]


@pytest.fixture
def make(future: asyncio.Future[Any]) -> Make:
    """Return work by its caller: steps, or so many items of a function."""

    def made(caller: str, count: int = 0, function: Any = list) -> Work:
        if not count:
            return Work(caller, 1, future, steps=steps())
        return Work(caller, count, future, function, range(count), BATCH)

    return made


def turn(line: Lane, seconds: float, back: Callable[[Work], bool] = lambda _: True) -> list[Part]:
    """Take a turn of so many seconds, after which unfinished steps come back."""
    parts = line.take()
    line.end(parts, seconds)
    for part in parts:
        if part.work.function is None and back(part.work):
            line.add(part.work)
    return parts


def test_a_caller_below_its_share_is_next_however_many_wait(make: Make) -> None:
    line = Lane(threading.Lock())
    greedy = [make(f"greedy {number}") for number in range(20)]
    for item in greedy:
        line.add(item)
    for number in range(200):
        turn(line, 0.05 + 0.001 * (number % 7))
        if number % 25 == 0:
            line.add(make("polite", 1))
            assert [part.work.caller for part in turn(line, 0.005)] == ["polite"]


def test_callers_get_equal_time_whatever_their_steps_take_and_however_many_requests_they_send(make: Make) -> None:
    line = Lane(threading.Lock())
    used = {"many small": 0.0, "one large": 0.0}
    for _ in range(10):
        line.add(make("many small"))
    line.add(make("one large"))
    for _ in range(2000):
        [part] = line.take()
        seconds = 0.01 if part.work.caller == "many small" else 0.08
        used[part.work.caller] += seconds
        line.end([part], seconds)
        line.add(part.work)
    assert used["many small"] == pytest.approx(used["one large"], abs=0.1)


def test_time_that_a_caller_left_to_others_is_not_saved_up(make: Make) -> None:
    line = Lane(threading.Lock())
    line.add(make("always"))
    for _ in range(100):
        turn(line, 0.1)
    line.add(make("late"))
    callers = [part.work.caller for _ in range(20) for part in turn(line, 0.1)]
    assert callers.count("late") == pytest.approx(10, abs=1)


def test_a_batch_has_an_item_of_each_and_the_oldest_gets_the_rest(make: Make) -> None:
    line = Lane(threading.Lock())
    large = [make("large", 100) for _ in range(3)]
    others = [make(f"caller {number}", 1) for number in range(5)]
    for item in (*large, *others):
        line.add(item)
    line.add(make("elsewhere", 1, function=tuple))
    counts = {part.work: part.item_count for part in line.take()}
    assert counts == dict(zip(large, (BATCH - 7, 1, 1), strict=True)) | dict.fromkeys(others, 1)


def test_many_callers_do_not_crowd_out_the_request_whose_turn_it_is(make: Make) -> None:
    line = Lane(threading.Lock())
    first = make("first", 100)
    line.add(first)
    for number in range(100):
        line.add(make(f"caller {number}", 1))
    batch = line.take()
    assert batch[0] == (first, 0, BATCH // 2)
    assert len(batch) == 1 + BATCH // 2


def test_callers_that_are_gone_take_no_memory(make: Make) -> None:
    line = Lane(threading.Lock())
    line.add(make("always"))
    for number in range(1000):
        line.add(make(f"caller {number}", 1))
        turn(line, 0.01, lambda item: item.caller == "always")
    assert len(line._used) < 10
    line.remove(make("unknown"))


@pytest.fixture
def queue() -> Iterator[FairQueue]:
    """A queue that holds several batches, and all of them of one caller."""
    with running(10 * BATCH, largest=10 * BATCH) as made:
        yield made


async def test_what_queues_behind_work_shares_a_call_and_a_wake_up(
    queue: FairQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    wake_ups: list[Callable[..., object]] = []
    twice = Doubled("twice", calls)
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
    assert found == [[2 * i, 2 * i + 200] for i in range(4)]
    assert [(name, sorted(items)) for name, items in calls] == [("twice", [0, 1, 2, 3, 100, 101, 102, 103])]
    # One for the work that held the thread, one for the batch.
    assert len(wake_ups) == 2


async def test_a_single_image_is_in_the_next_batch_beside_large_requests_of_all_others(queue: FairQueue) -> None:
    calls: Calls = []
    one = Doubled("one", calls)
    async with busy(queue):
        large = [asyncio.create_task(queue.run_each(f"greedy {i}", one, [i] * 2 * BATCH)) for i in range(3)]
        await asyncio.sleep(0)
        single = asyncio.create_task(queue.run_each(ME, one, [1000]))
    assert await single == [2000]
    assert [len(found) for found in await asyncio.gather(*large)] == [2 * BATCH] * 3
    assert 1000 in calls[0][1]
    assert [len(items) for _, items in calls] == [BATCH] * 6 + [1]


async def test_steps_of_requests_take_turns(queue: FairQueue) -> None:
    calls: Calls = []
    async with busy(queue):
        tasks = [asyncio.create_task(queue.run(ME, noting(name, calls, 3), 32)) for name in ("a", "b")]
    assert (await asyncio.gather(*tasks)) == ["a", "b"]
    assert calls == [(name, [number]) for number in range(3) for name in ("a", "b")]


async def test_draws_count_in_a_batch_and_in_the_queue(queue: FairQueue) -> None:
    calls: Calls = []
    quarter, many = Doubled("quarter", calls), Doubled("many", calls)
    async with busy(queue):
        tasks = [asyncio.create_task(queue.run_each(ME, quarter, [i], BATCH // 4)) for i in range(5)]
        tasks.append(asyncio.create_task(queue.run_each(OTHER, many, [5, 6], 2 * BATCH)))
        await asyncio.sleep(0)
        assert queue.images == 1 + 5 * BATCH // 4 + 4 * BATCH
    await asyncio.gather(*tasks)
    assert queue.images == 0
    assert sorted(items for _, items in calls) == [[0, 1, 2, 3], [4], [5], [6]]


async def test_large_images_come_in_small_batches(queue: FairQueue) -> None:
    calls: Calls = []
    await queue.run_each(ME, Doubled("large", calls), list(range(5)), at_once=2)
    assert [items for _, items in calls] == [[0, 1], [2, 3], [4]]


async def test_a_caller_holds_what_stays_free_for_others_and_alone_one_large_request() -> None:
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


async def test_the_requests_that_wait_for_their_first_turn_are_bounded() -> None:
    begun, gate = threading.Event(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        assert gate.wait(60)
        return items

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


async def test_batches_and_waits_are_measured() -> None:
    metrics = ServiceMetrics()
    twice = Doubled("twice", [])
    with running(10 * BATCH, metrics=metrics) as queue:
        async with busy(queue):
            tasks = [asyncio.create_task(queue.run_each(ME, twice, items)) for items in (range(BATCH + 4), [1], [2])]
        await asyncio.gather(*tasks)
    value = metrics.registry.get_sample_value
    # A full batch, and what was left of the large request.
    assert (value("snf_batch_images_count"), value("snf_batch_images_sum")) == (2, BATCH + 6)
    assert value("snf_batch_images_bucket", {"le": "8.0"}) == 1
    # Every request once, in however many turns it was done.
    assert value("snf_queue_wait_seconds_count") == 4


async def test_work_whose_deadline_passes_in_the_queue_is_not_done(queue: FairQueue) -> None:
    done: list[str] = []
    async with busy(queue):
        with pytest.raises(Problem) as caught:
            async with deadline(50, 30.0):
                await queue.run(ME, step(lambda: done.append("late")), 1)
        assert caught.value.status == 504
        assert queue.images == 1
    await queue.run(ME, step(lambda: None), 1)
    assert done == []


async def test_work_in_hand_stops_after_its_step(queue: FairQueue) -> None:
    parts: list[int] = []
    waited = threading.Event()

    def work() -> Steps[None]:
        for part in range(1000):
            parts.append(part)
            waited.wait(0.01)
            yield

    with pytest.raises(Problem):
        async with deadline(100, 30.0):
            await queue.run(ME, work(), 5)
    await queue.run(ME, step(lambda: None), 5)
    assert queue.images == 0
    assert 0 < len(parts) < 1000


async def test_an_error_goes_to_its_caller_and_the_thread_lives_on(queue: FairQueue) -> None:
    def broken() -> None:
        raise MemoryError("too much")

    with pytest.raises(MemoryError, match="too much"):
        await queue.run(ME, step(broken), 4)
    assert await queue.run(ME, step(lambda: 7), 10) == 7


async def test_a_batch_that_fails_fails_all_of_it_and_no_other(queue: FairQueue) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)
    async with busy(queue):
        tasks = [asyncio.create_task(queue.run_each(ME, twice, [item])) for item in (1, "two", 3)]
        other = asyncio.create_task(queue.run_each(ME, Doubled("other", calls), [4]))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(one) for one in found] == ["an item is text"] * 3
    assert await other == [8]
    assert await queue.run_each(ME, twice, [5]) == [10]
    assert queue.images == 0


async def test_too_few_results_are_an_error_and_no_endless_wait(queue: FairQueue) -> None:
    with pytest.raises(ValueError, match="shorter"):
        await queue.run_each(ME, lambda items: items[1:], [1, 2])
    assert await queue.run_each(ME, list, []) == []


async def test_a_request_that_has_ended_is_not_in_the_batch(queue: FairQueue) -> None:
    calls: Calls = []
    twice = Doubled("twice", calls)
    async with busy(queue):
        stays = asyncio.create_task(queue.run_each(ME, twice, [1]))
        with pytest.raises(Problem) as caught:
            async with deadline(20, 30.0):
                await queue.run_each(ME, twice, [2, 3])
        assert caught.value.status == 504
        assert queue.images == 2
    assert await stays == [2]
    assert calls == [("twice", [1])]


async def test_the_rest_of_a_large_request_is_not_done_when_its_caller_leaves(queue: FairQueue) -> None:
    calls: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        begun.set()
        assert gate.wait(60)
        return items

    large = asyncio.create_task(queue.run_each(ME, slow, range(3 * BATCH)))
    await asyncio.to_thread(begun.wait, 60)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    assert queue.images == 0
    gate.set()
    assert await queue.run_each(ME, slow, [1]) == [1]
    assert calls == [BATCH, 1]


async def test_closing_finishes_what_is_accepted() -> None:
    calls: Calls = []
    with running(10 * BATCH) as queue:
        large = asyncio.create_task(queue.run_each(ME, Doubled("twice", calls), range(3 * BATCH)))
        steps = asyncio.create_task(queue.run(OTHER, noting("steps", [], 3), 1))
        await asyncio.sleep(0)
        await asyncio.to_thread(queue.close)
        assert await large == [2 * item for item in range(3 * BATCH)]
        assert await steps == "steps"
        with pytest.raises(Problem, match="no new work"):
            await queue.run(ME, step(lambda: None), 1)
    assert [len(items) for _, items in calls] == [BATCH] * 3


async def test_a_thread_that_hangs_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    queue, hung, released = FairQueue(BATCH, 128, ServiceMetrics()), threading.Event(), threading.Event()

    def hang() -> None:
        hung.set()
        released.wait(60)

    queue.start()
    waiting = asyncio.create_task(queue.run("caller", step(hang), 1))
    await asyncio.to_thread(hung.wait, 60)
    queue.close(timeout_s=0.05)
    assert "the scoring thread did not end within 0.05 s; its work is given up" in caplog.messages
    released.set()
    await waiting
    queue.close()


class Noting:
    """A scorer that notes its calls."""

    preprocessing = Preprocessing(channels=1, height=2, width=2)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def detect(self, pixels: Any, alphas: list[float | None], draws: int) -> list[Any]:
        self.calls.append((pixels.shape, alphas, draws))
        return [int(image.flat[0]) for image in pixels]


def image(number: int) -> Any:
    return np.full((1, 2, 2), number, np.uint8)


def test_one_call_judges_the_images_of_all_requests() -> None:
    scorer = Noting()
    asked = [(1, None), (2, 0.05), (3, None)]
    found = DetectImages(cast(Scorer, scorer), 4)([RequestedImage(image(number), alpha) for number, alpha in asked])
    assert scorer.calls == [((3, 1, 2, 2), [None, 0.05, None], 4)]
    assert found == [1, 2, 3]
