"""Lines of waiting jobs, and messages of the broker that were lost."""

import time
from collections.abc import Callable

import pytest

from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore

Add = Callable[..., Job]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_queues_do_not_make_each_others_messages_look_lost(store: JobStore, add: Add) -> None:
    waiting = add(queue=Queue.TRAIN_GPU)
    time.sleep(0.02)
    store.take(add().id, "w", 5)
    time.sleep(0.02)
    assert store.lines.lost_messages(Queue.TRAIN_GPU, 0.01, first=False, line_is_empty=False) == []
    assert store.lines.lost_messages(Queue.TRAIN_GPU, 0.01, first=False, line_is_empty=True) == [waiting.id]
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=True) == []


def test_the_place_in_line(store: JobStore, add: Add) -> None:
    first, second, elsewhere = add(), add(), add(queue=Queue.TRAIN_GPU)
    assert [store.lines.position(job) for job in (first, second, elsewhere)] == [0, 1, 0]
    store.take(first.id, "w", 5)
    assert [store.lines.position(job) for job in (first, second)] == [None, 0]


def test_lost_messages_are_told_from_waiting_ones(store: JobStore, add: Add) -> None:
    first = add().id
    time.sleep(0.02)  # their order is that of milliseconds
    second, third = add().id, add().id
    time.sleep(0.05)
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 60, first=False, line_is_empty=True) == []
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=False) == []
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=True) == [first, second, third]
    store.take(second, "w", 5)
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=False) == [first]
    assert store.lines.note_dispatch(first)
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=False) == []


def test_a_job_first_in_line_does_not_make_others_look_lost(store: JobStore, add: Add) -> None:
    preempted = add()
    attempt = store.take(preempted.id, "w", 5) or 0
    waiting = add()
    time.sleep(0.02)
    store.put_back(preempted.id, attempt, {})
    store.take(preempted.id, "w", 5)
    time.sleep(0.02)
    assert waiting.id not in store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=False)


def test_a_lost_message_of_a_job_first_in_line_is_noticed_behind_a_long_queue(store: JobStore, add: Add) -> None:
    preempted = add()
    attempt = store.take(preempted.id, "w", 5) or 0
    waiting = [add() for _ in range(2)]
    store.put_back(preempted.id, attempt, {})
    time.sleep(0.02)
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=True, line_is_empty=False) == []
    store.take(waiting[0].id, "w", 5)
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=True, line_is_empty=True) == [preempted.id]
    assert store.lines.lost_messages(Queue.TRAIN_CPU, 0.01, first=False, line_is_empty=False) == []
    assert [store.lines.position(job) for job in (preempted, waiting[1])] == [0, 1]
    assert store.lines.length(Queue.TRAIN_CPU) == 2


def test_a_job_whose_message_was_lost_goes_to_the_front(store: JobStore, add: Add) -> None:
    lost, others = add(), [add() for _ in range(2)]
    store.take(others[0].id, "w", 5)
    assert store.lines.note_dispatch(lost.id)
    assert [store.lines.position(job) for job in (lost, others[1])] == [0, 1]
    assert store.lines.length(Queue.TRAIN_CPU) == 2
    store.take(lost.id, "w", 5)
    assert store.lines.length(Queue.TRAIN_CPU) == 1
