"""The order of turns: by what each caller has used, and around the requests of one."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from snf_app.scoring.fair_line import BATCH, FairLine, WorkItem
from snf_runtime.steps import Steps


@pytest.fixture
def future() -> Iterator[asyncio.Future[Any]]:
    loop = asyncio.new_event_loop()
    yield loop.create_future()
    loop.close()


def steps() -> Steps[None]:
    yield


Make = Callable[..., WorkItem]


@pytest.fixture
def make(future: asyncio.Future[Any]) -> Make:
    """Return work by its caller: steps, or so many items of a function."""

    def made(caller: str, count: int = 0, function: Any = list) -> WorkItem:
        if not count:
            return WorkItem(caller, 1, future, steps=steps())
        return WorkItem(caller, count, future, function, range(count), BATCH, result=[])

    return made


def turn(line: FairLine, seconds: float, back: Callable[[WorkItem], bool] = lambda _: True) -> Sequence[WorkItem]:
    """Take a turn of so many seconds, after which unfinished work comes back."""
    batch = line.take()
    line.charge(batch, seconds)
    for item in batch:
        if item.function is not None:
            item.result += item.part
        if (item.function is None and back(item)) or len(item.result or ()) < len(item.items):
            line.add(item)
        item.in_hand = 0
    return batch


def test_a_caller_below_its_share_is_next_however_many_wait(make: Make) -> None:
    line = FairLine()
    greedy = [make(f"greedy {number}") for number in range(20)]
    for item in greedy:
        line.add(item)
    for number in range(200):
        turn(line, 0.05 + 0.001 * (number % 7))
        if number % 25 == 0:
            line.add(make("polite", 1))
            assert [item.caller for item in turn(line, 0.005)] == ["polite"]


def test_callers_get_equal_time_whatever_their_steps_take_and_however_many_requests_they_send(make: Make) -> None:
    line = FairLine()
    used = {"many small": 0.0, "one large": 0.0}
    for _ in range(10):
        line.add(make("many small"))
    line.add(make("one large"))
    for _ in range(2000):
        [first] = line.take()
        seconds = 0.01 if first.caller == "many small" else 0.08
        used[first.caller] += seconds
        line.charge([first], seconds)
        line.add(first)
    assert used["many small"] == pytest.approx(used["one large"], abs=0.1)


def test_time_that_a_caller_left_to_others_is_not_saved_up(make: Make) -> None:
    line = FairLine()
    line.add(make("always"))
    for _ in range(100):
        turn(line, 0.1)
    line.add(make("late"))
    callers = [item.caller for _ in range(20) for item in turn(line, 0.1)]
    assert callers.count("late") == pytest.approx(10, abs=1)


def test_requests_of_one_caller_take_turns(make: Make) -> None:
    line = FairLine()
    items = [make("me") for _ in range(3)]
    for item in items:
        line.add(item)
    assert [found for _ in range(6) for found in turn(line, 0.1)] == items * 2


def test_a_batch_has_an_item_of_each_and_the_oldest_gets_the_rest(make: Make) -> None:
    line = FairLine()
    large = [make("large", 100) for _ in range(3)]
    others = [make(f"caller {number}", 1) for number in range(5)]
    for item in (*large, *others):
        line.add(item)
    line.add(make("elsewhere", 1, function=tuple))
    batch = line.take()
    assert {item.caller: item.in_hand for item in batch if item not in large} == {item.caller: 1 for item in others}
    assert [item.in_hand for item in large] == [BATCH - 7, 1, 1]


def test_many_callers_do_not_crowd_out_the_request_whose_turn_it_is(make: Make) -> None:
    line = FairLine()
    first = make("first", 100)
    line.add(first)
    for number in range(100):
        line.add(make(f"caller {number}", 1))
    batch = line.take()
    assert first.in_hand == BATCH // 2
    assert len(batch) == 1 + BATCH // 2


def test_callers_that_are_gone_take_no_memory(make: Make) -> None:
    line = FairLine()
    line.add(make("always"))
    for number in range(1000):
        line.add(make(f"caller {number}", 1))
        turn(line, 0.01, lambda item: item.caller == "always")
    assert len(line._used) < 10
    line.remove(make("unknown"))


def test_requests_end_one_after_the_other(make: Make) -> None:
    line = FairLine()
    items = [make("me", BATCH) for _ in range(4)]
    for item in items:
        line.add(item)
    ends: list[int] = []
    for number in range(4):
        turn(line, 0.1)
        ends += [number for item in items if len(item.result) == BATCH and number not in ends]
    assert not line
    assert len(ends) >= 3
