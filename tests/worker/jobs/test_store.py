"""The contract of the job store, against the embedded Valkey and against a real Redis server."""

import threading
import time
from collections.abc import Callable

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import (
    BrokerDown,
    IdempotencyConflict,
    JobConflict,
    JobInUse,
    JobNotFound,
    StaleAttempt,
    TooManyJobs,
)
from snf_worker.jobs.record import Job, Queue, RequestedAction, Status, new_job_id
from snf_worker.jobs.store import JobLimits, JobStore
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job, take

Add = Callable[..., Job]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_ids_rise_with_time_and_never_repeat() -> None:
    ids = [new_job_id() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {len(i) for i in ids} == {26}


def test_a_record_comes_back_as_it_was(store: JobStore) -> None:
    job = new_job(parameters={"max_steps": 5, "rate": 0.5, "list": []}, promote=True)
    made, new = store.create(job)
    assert new
    assert made == job == store.get(job.id)


def test_an_unknown_job(store: JobStore) -> None:
    with pytest.raises(JobNotFound):
        store.get("nothing")
    with pytest.raises(JobNotFound):
        store.request_cancel("nothing")


def test_pages_are_newest_first_and_miss_and_repeat_nothing(store: JobStore, add: Add) -> None:
    ids = [add().id for _ in range(7)]
    store.request_cancel(ids[3])
    seen: list[str] = []
    after = None
    while True:
        page = store.list(after=after, limit=2)
        seen += [job.id for job in page.jobs]
        add()  # newer ones do not disturb the cursor
        if page.next is None:
            break
        after = page.next
    assert seen == ids[::-1]
    assert [j.id for j in store.list(status=Status.CANCELLED, type="train").jobs] == [ids[3]]
    assert ids[3] not in [j.id for j in store.list(status=Status.QUEUED).jobs]
    assert store.count(Status.CANCELLED) == 1


def test_idempotency_key(store: JobStore) -> None:
    first, new = store.create(new_job(), "key", "print")
    again, renewed = store.create(new_job(), "key", "print")
    assert (new, renewed) == (True, False)
    assert again == first
    with pytest.raises(IdempotencyConflict, match=first.id):
        store.create(new_job(), "key", "another")
    assert len(store.list().jobs) == 1

    store.request_cancel(first.id)
    store.remove(first.id)
    assert store.find_by_idempotency_key("key", "another") is None
    fresh, new = store.create(new_job(), "key", "another")
    assert (new, fresh.id != first.id) == (True, True), "the key of a deleted job is free again"
    assert store.find_by_idempotency_key("key", "another") == fresh


def test_one_of_many_takes_the_lease(settings: Settings, store: JobStore, add: Add) -> None:
    job = add()
    got: list[tuple[str, int] | None] = []

    def take() -> None:
        got.append(
            JobStore(redis_client(settings), settings.key_prefix).take(job.queue, threading.current_thread().name, 5)
        )

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=str) == [(job.id, 1)] + [None] * 7


def test_progress_and_life_of_a_job(store: JobStore, add: Add) -> None:
    job = add()
    attempt = take(store, job, "me", 5)
    assert attempt == 1
    assert store.get(job.id).status is Status.STARTING
    assert store.renew(job.id, attempt, 5) is RequestedAction.GO_ON
    assert store.get(job.id).status is Status.STARTING, "it has shown nothing yet"
    assert (
        store.renew(job.id, attempt, 5, {"progress": {"step": 3}, "metrics": {"bits_per_dim": 1.5}})
        is RequestedAction.GO_ON
    )
    running = store.get(job.id)
    assert (running.status, running.progress, running.worker) == (Status.RUNNING, {"step": 3}, "me")
    store.finish(job.id, attempt, Status.SUCCEEDED, {"result": {"ref": "digits:1"}, "error": None})
    done = store.get(job.id)
    assert done.finished
    assert done.result == {"ref": "digits:1"}
    assert done.finished_at is not None
    assert done.started_at is not None
    assert done.worker is None


@pytest.mark.parametrize("end", [Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.CANCELLED])
def test_a_terminal_state_never_changes(store: JobStore, add: Add, end: Status) -> None:
    job = add()
    attempt = take(store, job)
    store.finish(job.id, attempt, end, {})
    before = store.get(job.id)
    with pytest.raises(JobConflict):
        store.request_cancel(job.id)
    with pytest.raises(StaleAttempt):
        store.put_back(job.id, attempt, {})
    late = Status.CANCELLED if end is Status.FAILED else Status.FAILED
    with pytest.raises(StaleAttempt):
        store.finish(job.id, attempt, late, {"error": {"type": "late"}})
    with pytest.raises(StaleAttempt):
        store.renew(job.id, attempt, 5, {"progress": {"step": 99}})
    assert take(store, job) == 0
    assert store.expire(job.id, 3) == "kept"
    assert store.get(job.id) == before


def test_a_stale_token_changes_nothing(store: JobStore, add: Add) -> None:
    job = add()
    old = take(store, job, "slow", 0.05)
    time.sleep(0.1)
    assert store.expired_leases() == [job.id]
    assert store.expire(job.id, 3) == "queued"
    new = take(store, job, "quick", 5)
    assert (old, new) == (1, 2)
    assert not store.holds(job.id, old)
    assert store.holds(job.id, new)
    for call in (
        lambda: store.renew(job.id, old, 5, {"progress": {"step": 99}}),
        lambda: store.put_back(job.id, old, {}),
        lambda: store.finish(job.id, old, Status.SUCCEEDED, {}),
    ):
        with pytest.raises(StaleAttempt):
            call()
    assert store.get(job.id).progress == {}
    assert store.get(job.id).worker == "quick"


def test_failures_are_listed_until_they_are_recorded(store: JobStore, add: Add) -> None:
    failed, vanished, removed, done = add(), add(), add(), add()
    for job, end in ((failed, Status.FAILED), (removed, Status.FAILED), (done, Status.SUCCEEDED)):
        store.finish(job.id, take(store, job), end, {})
    assert [lose(store, vanished) for _ in range(3)][-1] == "failed"
    assert store.unrecorded() == sorted([failed.id, vanished.id, removed.id])
    store.remove(removed.id)
    store.recorded(failed.id)
    assert store.unrecorded() == [vanished.id]


def test_a_renewed_lease_does_not_expire(store: JobStore, add: Add) -> None:
    job = add()
    attempt = take(store, job, lease_s=0.05)
    time.sleep(0.1)
    store.renew(job.id, attempt, 30)
    assert store.expired_leases() == []
    assert store.expire(job.id, 3) == "kept"


def test_cancelling(store: JobStore, add: Add) -> None:
    queued = add()
    assert store.request_cancel(queued.id).status is Status.CANCELLED
    running = add()
    attempt = take(store, running)
    asked = store.request_cancel(running.id)
    assert (asked.status, asked.cancel_requested) == (Status.STARTING, True)
    assert store.renew(running.id, attempt, 5) is RequestedAction.CANCEL
    # Preempted at that very moment: it must not wait in the queue for ever.
    assert store.put_back(running.id, attempt, {}) is Status.CANCELLED
    lost = add()
    take(store, lost, lease_s=0.05)
    store.request_cancel(lost.id)
    time.sleep(0.1)
    assert store.expire(lost.id, 3) == "cancelled"
    assert store.get(lost.id).finished_at is not None


def test_pausing_and_resuming(store: JobStore, add: Add) -> None:
    queued = add()
    assert store.request_pause(queued.id).status is Status.PAUSED
    assert take(store, queued) == 0
    assert store.request_pause(queued.id).status is Status.PAUSED
    job, needs_message = store.request_resume(queued.id)
    assert (job.status, needs_message) == (Status.QUEUED, True)
    with pytest.raises(JobConflict, match="queued"):
        store.request_resume(queued.id)

    running = add()
    attempt = take(store, running)
    with pytest.raises(JobConflict, match="starting"):
        store.request_resume(running.id)
    asked = store.request_pause(running.id)
    assert (asked.status, asked.pause_requested) == (Status.STARTING, True)
    assert store.renew(running.id, attempt, 5) is RequestedAction.PAUSE
    assert store.put_back(running.id, attempt, {"checkpoint_step": 7}) is Status.PAUSED
    paused = store.get(running.id)
    assert (paused.pause_requested, paused.finished_at, paused.checkpoint_step) == (False, None, 7)
    assert store.request_resume(running.id)[0].status is Status.QUEUED
    assert take(store, running) == 2


def test_a_pause_taken_back_in_time_does_not_pause(store: JobStore, add: Add) -> None:
    job = add()
    attempt = take(store, job)
    store.request_pause(job.id)
    again, needs_message = store.request_resume(job.id)
    assert (again.status, again.pause_requested, needs_message) == (Status.STARTING, False, False)
    # The trainer had stopped for it already: the job is queued, not left paused.
    assert store.put_back(job.id, attempt, {}) is Status.QUEUED


def test_cancelling_beats_pausing(store: JobStore, add: Add) -> None:
    job = add()
    attempt = take(store, job)
    store.request_pause(job.id)
    store.request_cancel(job.id)
    with pytest.raises(JobConflict, match="being cancelled"):
        store.request_pause(job.id)
    assert store.renew(job.id, attempt, 5) is RequestedAction.CANCEL
    assert store.put_back(job.id, attempt, {}) is Status.CANCELLED
    paused = add()
    store.request_pause(paused.id)
    assert store.request_cancel(paused.id).status is Status.CANCELLED
    for call in (store.request_pause, store.request_resume):
        with pytest.raises(JobConflict, match="cancelled"):
            call(paused.id)


def test_a_lost_lease_pauses_where_that_was_asked_for(store: JobStore, add: Add) -> None:
    job = add()
    take(store, job, lease_s=0.05)
    store.request_pause(job.id)
    time.sleep(0.1)
    assert store.expire(job.id, 3) == "paused"


def lose(store: JobStore, job: Job, step: int | None = None) -> str:
    """An attempt whose worker vanishes with its trainer, after a checkpoint at `step`."""
    attempt = take(store, job, "host:1", 0.03)
    store.renew(job.id, attempt, 0.03, {"progress": {"step": 7}} | ({} if step is None else {"checkpoint_step": step}))
    time.sleep(0.05)
    return store.expire(job.id, 3)


def test_attempts_that_vanish_without_a_new_checkpoint_fail_the_job(store: JobStore, add: Add) -> None:
    job = add()
    assert [lose(store, job), lose(store, job, step=5), lose(store, job), lose(store, job)] == ["queued"] * 4
    assert store.get(job.id).attempts_without_progress == 2, "counted from the newest checkpoint on"
    assert lose(store, job) == "failed"
    failed = store.get(job.id)
    assert (failed.status, failed.attempts, failed.worker) == (Status.FAILED, 5, None)
    assert failed.finished_at is not None
    assert failed.error == {
        "type": "worker-lost",
        "title": "The worker vanished",
        "detail": "3 attempts in a row ended without a new checkpoint; the last one: worker host:1 vanished together "
        "with its trainer at step 7; likely the machine ran out of memory: a smaller batch_size or preset needs less",
    }


def test_a_worker_that_asks_again_gets_the_same_attempt(store: JobStore, add: Add) -> None:
    job, other = add(), add()
    assert [store.take(job.queue, "w", life_s) for life_s in (0.05, 30)] == [(job.id, 1)] * 2
    time.sleep(0.1)
    assert store.expire(job.id, 3) == "kept", "asking again renews the lease"
    assert store.take(job.queue, "another", 30) == (other.id, 1)
    store.renew(job.id, 1, 30)
    assert store.take(job.queue, "w", 30) is None, "it is confirmed: a late copy of the command takes nothing"


def test_an_attempt_that_was_never_confirmed_does_not_count(store: JobStore, add: Add) -> None:
    job = add()
    assert lose(store, job) == "queued"
    before = store.get(job.id)
    for _ in range(4):
        take(store, job, lease_s=0.01)
        time.sleep(0.03)
        assert store.expire(job.id, 2) == "queued"
    after = store.get(job.id)
    assert (after.attempts, after.attempts_without_progress, after.error) == (5, 1, before.error)
    assert lose(store, job) == "queued"
    assert lose(store, job) == "failed"


def test_a_preemption_is_no_attempt_without_progress(store: JobStore, add: Add) -> None:
    job = add()
    for _ in range(4):
        store.put_back(job.id, take(store, job), {})
    assert store.get(job.id).attempts_without_progress == 0


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


def test_a_lock_is_held_by_one(store: JobStore) -> None:
    with store.lock("x", 5) as mine, store.lock("x", 5) as other:
        assert (mine, other) == (True, False)
    with store.lock("x", 5) as again:
        assert again


def test_a_server_that_takes_no_writes_counts_as_down(
    store: JobStore, settings: Settings, broker: EmbeddedBroker, add: Add
) -> None:
    job = add()
    attempt = take(store, job)
    before = store.get(job.id)
    client = redis_client(settings)
    client.config_set("maxmemory", "1")
    for call in (lambda: store.create(new_job()), lambda: store.renew(job.id, attempt, 5, {"progress": {"step": 1}})):
        with pytest.raises(BrokerDown, match="takes no writes"):
            call()
    assert store.get(job.id) == before, "reading goes on, and nothing was half written"
    client.config_set("maxmemory", "0")
    assert store.renew(job.id, attempt, 5) is RequestedAction.GO_ON


def test_broker_down_is_an_error_within_seconds(store: JobStore, broker: EmbeddedBroker, add: Add) -> None:
    job = add()
    broker.stop()
    start = time.monotonic()
    for call in (
        store.ping,
        lambda: store.get(job.id),
        lambda: store.create(new_job()),
        store.list,
        lambda: store.request_cancel(job.id),
    ):
        with pytest.raises(BrokerDown):
            call()
    assert time.monotonic() - start < 15


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
