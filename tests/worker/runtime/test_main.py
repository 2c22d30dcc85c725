"""The real worker process on real brokers: delivery, restarts, kills, lost messages."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job, Queue, Status
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, queue_key, wake
from snf_worker.settings import Settings
from tests.worker.support.helpers import (
    Start,
    Submit,
    alive,
    make_reconciler,
    reaches,
    run_program,
    take,
    trainer_pids,
    until,
)

Add = Callable[..., Job]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_worker_never_imports_torch(tmp_path: Path) -> None:
    program = (
        "import sys, threading\n"
        "import snf_worker.runtime.main, snf_worker.runtime.launcher\n"
        "import snf_worker.jobs.submission, snf_worker.runtime.reconciler\n"
        "from snf_worker.settings import load_settings\n"
        "from snf_worker.jobs.submission import make_celery\n"
        "make_celery(load_settings()).finalize()\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'snf_app')))"
    )
    assert run_program(Settings(home=tmp_path), program) == "[]"


def test_deliveries_to_one_worker(start: Start, submit: Submit, store: JobStore, settings: Settings, add: Add) -> None:
    first, cancelled, repeated, last = (submit("succeed") for _ in range(4))
    store.request_cancel(cancelled.id)
    celery = make_celery(settings)
    for _ in range(3):
        wake(celery, repeated.queue)
    worker = start()

    done = [reaches(store, job, Status.SUCCEEDED) for job in (first, repeated, last)]
    assert [job.attempts for job in done] == [1, 1, 1], "more messages than jobs do no harm"
    starts = [job.started_at for job in done]
    ends = [job.finished_at for job in done]
    assert all(end <= begin for end, begin in zip(ends[:-1], starts[1:], strict=True) if end and begin)
    assert store.get(cancelled.id).attempts == 0, "a job that is cancelled in the queue never starts"

    without_message = add("wait")
    reaches(store, without_message, Status.RUNNING)
    store.request_cancel(without_message.id)
    reaches(store, without_message, Status.CANCELLED)

    dying = reaches(store, submit("die"), Status.FAILED)
    assert dying.attempts == 3
    assert dying.error is not None
    assert dying.error["detail"] == "killed, likely out of memory: a smaller batch_size or preset needs less"
    worker.terminate()
    assert worker.wait(30) == 0


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
def test_term_preempts_and_the_next_worker_takes_that_job_first(
    start: Start, submit: Submit, store: JobStore, settings: Settings
) -> None:
    worker = start()
    running, waiting = submit("wait-once"), submit("succeed")
    reaches(store, running, Status.RUNNING)
    worker.terminate()
    assert worker.wait(30) == 0
    assert [alive(pid) for pid in trainer_pids(settings, running)] == [False]
    assert store.get(running.id).status is Status.QUEUED
    assert store.get(running.id).checkpoint_step == 5
    start()
    first, second = reaches(store, running, Status.SUCCEEDED), reaches(store, waiting, Status.SUCCEEDED)
    assert (first.attempts, second.attempts) == (2, 1)
    assert first.finished_at is not None
    assert second.started_at is not None
    assert first.finished_at <= second.started_at


def test_kill_9_of_the_worker_loses_and_doubles_nothing(
    start: Start, submit: Submit, store: JobStore, settings: Settings
) -> None:
    worker = start()
    job = submit("wait-once")
    reaches(store, job, Status.RUNNING)
    worker.kill()
    worker.wait()
    # The pipe to the trainer ends with the worker: no orphan goes on training.
    until(lambda: not any(alive(pid) for pid in trainer_pids(settings, job)), 20)
    assert store.get(job.id).status is Status.RUNNING
    start()
    assert reaches(store, job, Status.SUCCEEDED).attempts == 2


def test_messages_that_vanished_are_sent_again(
    start: Start, submit: Submit, store: JobStore, settings: Settings
) -> None:
    lost, *others = (submit("succeed") for _ in range(3))
    redis_client(settings).rpop(queue_key(settings, Queue.TRAIN_CPU))
    start()
    done = [reaches(store, job, Status.SUCCEEDED) for job in (lost, *others)]
    starts = [job.started_at for job in done if job.started_at]
    assert starts == sorted(starts), "no job loses its place, as messages name none"


def test_waiting_jobs_are_not_sent_again_and_again(submit: Submit, store: JobStore, settings: Settings) -> None:
    for _ in range(5):
        submit("succeed")
    reconciler = make_reconciler(store, settings)
    assert reconciler.sweep() == 0
    assert store.message_count([queue_key(settings, Queue.TRAIN_CPU)]) == 5


def test_a_damaged_record_does_not_keep_the_sweep_from_other_jobs(
    submit: Submit, store: JobStore, settings: Settings
) -> None:
    client = redis_client(settings)
    client.zadd(f"{settings.key_prefix}leases", {"0-without-record": 1})
    damaged, sound = submit("succeed"), submit("succeed")
    for job in (damaged, sound):
        store.renew(job.id, take(store, job, "gone", 5), 0.01)
    for field in ("progress", "parameters"):
        client.hset(f"{settings.key_prefix}job:{damaged.id}", field, "{")
    time.sleep(0.1)
    assert make_reconciler(store, settings).sweep() == 2
    assert store.get(sound.id).status is Status.QUEUED
    assert store.expired_leases() == []


def test_two_sweeps_at_once_move_a_job_once(submit: Submit, store: JobStore, settings: Settings) -> None:
    job = submit("succeed")
    take(store, job, "gone", 0.01)
    time.sleep(0.1)
    moved: list[int] = []
    sweeps = [
        threading.Thread(
            target=lambda: moved.append(
                make_reconciler(JobStore(redis_client(settings), settings.key_prefix), settings).sweep()
            )
        )
        for _ in range(4)
    ]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join()
    assert sum(moved) == 1, "its message is still there"
    assert store.get(job.id).status is Status.QUEUED
