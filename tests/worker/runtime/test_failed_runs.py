"""Records of runs whose job failed: they say so, whatever is lost between the job store and the disk."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.runs import RunRecorder, RunStore
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.runs import start as started_run
from tests.worker.support.helpers import Start, fake_command, make_reconciler, take
from tests.worker.support.lossy_store import LosesAnswers

Add = Callable[..., Job]


KILLED_AT_THE_END = """
import os, signal, threading
from tests.worker.support.helpers import fake_command
from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Supervisor
from snf_worker.settings import load_settings

class Killed(JobStore):
    def finish(self, *args):
        super().finish(*args)
        os.kill(os.getpid(), signal.SIGKILL)

settings = load_settings()
store = Killed(redis_client(settings), settings.key_prefix)
Supervisor(store, settings, threading.Event(), fake_command).run(Queue.TRAIN_CPU)
"""


def begun(job: Job, settings: Settings) -> tuple[Job, RunStore]:
    """The job, whose training has begun, with the records of runs."""
    runs = RunStore(settings.run_records_dir)
    with RunRecorder(runs, started_run(origin="job", attempts=1), lambda: job.id) as record:
        record({"event": "started", "step": 0, "steps": 40})
    return job, runs


def test_the_record_of_a_run_failed_once_its_job_did(
    supervisor: Supervisor, store: JobStore, settings: Settings, add: Add
) -> None:
    job, runs = begun(add("die"), settings)
    states = []
    for _ in range(3):
        supervisor.run(job.queue)
        states.append(runs.get(job.id).state)
    assert states == ["unfinished", "unfinished", "failed"]
    error = store.get(job.id).error or {}
    assert runs.get(job.id).error == f"{error['title']}: {error['detail']}"


def test_the_record_of_a_run_failed_although_the_answer_to_its_end_is_lost(
    served: None, settings: Settings, stopping: threading.Event, add: Add
) -> None:
    job, runs = begun(add("refuse"), settings)
    losing = LosesAnswers(settings)
    losing.lose = {"leave": 2}
    assert Supervisor(losing, settings, stopping, command=fake_command).run(job.queue) is Outcome.FAILED
    assert (runs.get(job.id).state, runs.get(job.id).error) == ("failed", "Diverged: loss is NaN")
    assert losing.unrecorded() == []


def test_the_record_of_a_run_failed_although_its_worker_was_killed_before_it_wrote_so(
    store: JobStore, settings: Settings, add: Add, start: Start
) -> None:
    job, runs = begun(add("refuse"), settings)
    worker = start("tests.worker.support.given_program", [KILLED_AT_THE_END.format(job=job.id)])
    assert worker.wait(60) == -signal.SIGKILL
    assert (store.get(job.id).status, runs.get(job.id).state) == (Status.FAILED, "unfinished")
    make_reconciler(store, settings).sweep()
    assert (runs.get(job.id).state, runs.get(job.id).error) == ("failed", "Diverged: loss is NaN")
    assert store.unrecorded() == []


def test_the_record_of_a_run_failed_once_the_disk_takes_writes_again(
    supervisor: Supervisor, store: JobStore, settings: Settings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, runs = begun(add("refuse"), settings)

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reconciler = make_reconciler(store, settings)
    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "write", full)
        assert supervisor.run(job.queue) is Outcome.FAILED
        reconciler.sweep()
    assert (runs.get(job.id).state, store.unrecorded()) == ("unfinished", [job.id])
    reconciler.sweep()
    assert (runs.get(job.id).state, store.unrecorded()) == ("failed", [])


def test_the_record_of_a_run_whose_worker_is_gone_failed_once_its_job_did(
    store: JobStore, settings: Settings, add: Add
) -> None:
    job, runs = begun(add("wait"), settings)
    reconciler = make_reconciler(store, settings)
    states = []
    for attempt in range(1, settings.max_attempts_without_progress + 1):
        assert take(store, job, "gone", 30) == attempt
        store.renew(job.id, attempt, 0.01)
        time.sleep(0.1)
        reconciler.sweep()
        states.append((store.get(job.id).status, runs.get(job.id).state))
    assert states[-1] == (Status.FAILED, "failed")
    assert set(states[:-1]) <= {(Status.QUEUED, "unfinished")}
    assert runs.get(job.id).error
