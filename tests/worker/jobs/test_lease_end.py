"""Ends of attempts that are written to the job store again, after a lost answer."""

import time
from collections.abc import Callable

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.errors import (
    StaleAttempt,
)
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.worker.support.helpers import take

Add = Callable[..., Job]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_end_that_is_written_again_gets_the_same_answer(store: JobStore, settings: Settings, add: Add) -> None:
    def fail(job: Job, attempt: int) -> None:
        store.finish(job.id, attempt, Status.FAILED, {"error": {"type": "diverged"}})

    job = add()
    attempt = take(store, job)
    assert [store.put_back(job.id, attempt, {"checkpoint_step": 7}) for _ in range(2)] == [Status.QUEUED] * 2
    assert store.request_pause(job.id).status is Status.PAUSED
    assert store.put_back(job.id, attempt, {"checkpoint_step": 7}) is Status.PAUSED
    store.request_resume(job.id)
    newer = take(store, job)
    with pytest.raises(StaleAttempt):
        store.put_back(job.id, attempt, {"checkpoint_step": 7})
    fail(job, newer)
    before = store.get(job.id)
    changes = len(redis_client(settings).xrange(f"{settings.key_prefix}changes:{job.id}"))
    fail(job, newer)
    assert store.get(job.id) == before
    assert len(redis_client(settings).xrange(f"{settings.key_prefix}changes:{job.id}")) == changes


def test_a_start_that_is_written_again_after_the_lease_expired_is_stale(store: JobStore, add: Add) -> None:
    job = add()
    attempt = take(store, job, lease_s=0.01)
    for _ in range(2):
        store.running(job.id, attempt)
    time.sleep(0.03)
    assert store.expire(job.id, 3) == "queued"
    with pytest.raises(StaleAttempt):
        store.running(job.id, attempt)


def test_an_end_of_an_earlier_version_cannot_be_repeated(store: JobStore, settings: Settings, add: Add) -> None:
    job = add()
    attempt = take(store, job)
    store.finish(job.id, attempt, Status.SUCCEEDED, {})
    redis_client(settings).hdel(f"{settings.key_prefix}job:{job.id}", "left_by")
    with pytest.raises(StaleAttempt):
        store.finish(job.id, attempt, Status.SUCCEEDED, {})
