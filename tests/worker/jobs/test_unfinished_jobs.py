"""Unfinished jobs in the store: how many there may be, what they use, and what they keep from being removed."""

from collections.abc import Callable

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.errors import JobConflict, JobInUse, JobNotFound, TooManyJobs
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobLimits, JobStore
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job, take

Add = Callable[..., Job]

pytestmark = pytest.mark.parametrize("server", ["valkey", "redis"])


def test_unfinished_jobs_are_limited_for_each_caller_and_altogether(settings: Settings, served: None) -> None:
    store = JobStore(redis_client(settings), settings.key_prefix, limits=JobLimits(per_caller=2, altogether=3))
    queued, paused = (store.create(new_job(caller="key:a"), f"key {number}", "")[0] for number in range(2))
    store.request_pause(paused.id)
    with pytest.raises(TooManyJobs, match="this caller has 2 unfinished jobs, and may have 2; wait until some"):
        store.create(new_job(caller="key:a"), "another", "")
    assert store.create(new_job(), "key 0", "") == (queued, False), "a repeated request is no new job"
    running = store.create(new_job(caller="key:b"))[0]
    attempt = take(store, running, lease_s=30)
    with pytest.raises(TooManyJobs, match="3 jobs are unfinished, and 3 may be"):
        store.create(new_job(caller="key:c"))
    store.finish(running.id, attempt, Status.SUCCEEDED, {})
    with pytest.raises(TooManyJobs, match="this caller"):
        store.create(new_job(caller="key:a"), "another", "")
    store.request_cancel(paused.id)
    assert store.create(new_job(caller="key:a"), "another", "")[1], "the key of a refused request is not used up"
    with pytest.raises(TooManyJobs, match="this caller"):
        store.create(new_job(caller="key:a"))
    store.create(new_job(caller="key:c"))


def test_a_removed_job_is_retried_by_nobody(store: JobStore, add: Add) -> None:
    failed = add()
    store.finish(failed.id, take(store, failed, lease_s=30), Status.FAILED, {})
    retry = store.create(new_job(retry_of=failed.id))[0]
    again = store.create(new_job(retry_of=retry.id))[0]
    store.request_cancel(retry.id)
    for job in (failed, retry):
        with pytest.raises(JobInUse, match=f"job {again.id} is queued and uses the checkpoints of {job.id}") as caught:
            store.remove(job.id)
        assert caught.value.job == again.id
    with pytest.raises(JobConflict, match="is queued; cancel it first or wait for its end"):
        store.remove(again.id)
    store.request_cancel(again.id)
    store.remove(failed.id)
    # The moment after a request for its retry has read the job, and before the retry is stored.
    with pytest.raises(JobNotFound):
        store.create(new_job(retry_of=failed.id), f" retry {failed.id}", "")
    with pytest.raises(JobNotFound):
        store.remove(failed.id)
    assert store.removed() == [failed.id]
    store.cleared(failed.id)
    assert store.removed() == []


def test_unfinished_jobs_are_found_by_what_they_use(store: JobStore, add: Add) -> None:
    by_dataset, by_model = add(dataset="parts"), add(model="parts:3")
    by_parameter = add(parameters={"behave": "succeed", "against": ["parts"]})
    ended, _other = add(dataset="parts"), add()
    store.request_cancel(ended.id)
    store.request_pause(by_model.id)
    add(dataset="parts-2", model="my-parts:3", parameters={"behave": "succeed", "against": ["spare-parts"]})
    users = sorted([by_dataset.id, by_model.id, by_parameter.id])
    assert sorted(job.id for job in store.mentioning("parts")) == users
    assert [job.id for job in store.mentioning("parts:3")] == [by_model.id]
    assert store.mentioning("part") == store.mentioning("nothing") == []
