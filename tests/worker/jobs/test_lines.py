"""Lines of waiting jobs."""

from collections.abc import Callable

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.worker.support.helpers import take

Add = Callable[..., Job]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_place_in_line(store: JobStore, add: Add) -> None:
    first, second, elsewhere = add(), add(), add(queue=Queue.TRAIN_GPU)
    assert [store.position(job) for job in (first, second, elsewhere)] == [0, 1, 0]
    assert store.take(Queue.TRAIN_CPU, "w", 5) == (first.id, 1)
    assert [store.position(job) for job in (first, second)] == [None, 0]
    assert store.waiting(Queue.TRAIN_CPU) == 1


def test_jobs_that_have_run_are_taken_first_in_the_order_in_which_they_came_back(store: JobStore, add: Add) -> None:
    early, late, paused, waiting = (add() for _ in range(4))
    attempts = {job.id: take(store, job) for job in (early, late)}
    store.request_pause(paused.id)
    for job in (late, early):
        store.put_back(job.id, attempts[job.id], {})
    store.request_resume(paused.id)
    order = [late, early, paused, waiting]
    assert [store.position(job) for job in order] == [0, 1, 2, 3]
    taken = [store.take(Queue.TRAIN_CPU, f"w{number}", 5) for number in range(5)]
    assert taken == [(late.id, 2), (early.id, 2), (paused.id, 1), (waiting.id, 1), None]


def test_jobs_that_a_worker_cannot_run_yet_are_left_in_line(store: JobStore, add: Add) -> None:
    full, other = add(), add()
    assert store.take(Queue.TRAIN_CPU, "w", 5, [full.id]) == (other.id, 1)
    assert store.take(Queue.TRAIN_CPU, "v", 5, [full.id]) is None
    assert store.position(full) == 0


def test_an_entry_without_a_queued_job_is_dropped(store: JobStore, settings: Settings, add: Add) -> None:
    line = f"{settings.key_prefix}waiting:train-cpu"
    redis_client(settings).zadd(line, {"gone": -1})
    job = add()
    assert store.take(Queue.TRAIN_CPU, "w", 5) == (job.id, 1)
    assert store.waiting(Queue.TRAIN_CPU) == 0
