"""The supervisor with a fake trainer: exit codes, kills, cancel, preemption, lost leases, outages."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snf_client.schemas.base import JobType
from snf_worker.attempts import score
from snf_worker.attempts.run_attempt import StopFlag
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import ExitCode, Job, Queue, Status
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import DiskSpaceGuard, HelperProcess, Outcome, Supervisor, takes_helpers
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk
from tests.worker.support.helpers import alive, fake_command, new_job, take, until
from tests.worker.support.lossy_store import LosesAnswers
from tests.worker.support.scoring import scoring

Add = Callable[..., Job]


class Background:
    """An attempt that runs in a thread."""

    def __init__(self, supervisor: Supervisor, store: JobStore, job: Job) -> None:
        self.outcome: Outcome | None = None

        def run() -> None:
            self.outcome = supervisor.run(job.queue)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        until(lambda: store.get(job.id).status is Status.RUNNING)

    def end(self) -> Outcome | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.outcome


@pytest.fixture
def losing(settings: Settings, served: None) -> LosesAnswers:
    return LosesAnswers(settings)


def trainer_pid(settings: Settings, job: Job) -> int:
    return int((settings.jobs_dir / job.id / "pids").read_text().split()[-1])


@pytest.mark.parametrize("behave", ["wait", "deaf"])
@pytest.mark.parametrize(("request_stop", "outcome"), [("pause", Outcome.PAUSED), ("cancel", Outcome.CANCELLED)])
def test_a_trainer_ends_when_asked_to_or_is_killed(
    store: JobStore,
    settings: Settings,
    stopping: threading.Event,
    add: Add,
    behave: str,
    request_stop: str,
    outcome: Outcome,
) -> None:
    hasty = settings.model_copy(update={"stop_grace_seconds": 0.3 if behave == "deaf" else 20})
    job = add(behave)
    running = Background(Supervisor(store, hasty, stopping, command=fake_command), store, job)
    until((settings.jobs_dir / job.id / "pids").exists)
    pid = trainer_pid(settings, job)
    getattr(store, f"request_{request_stop}")(job.id)
    assert running.end() is outcome
    ended = store.get(job.id)
    assert (ended.status, ended.attempts_without_progress, ended.error, ended.worker) == (outcome, 0, None, None)
    assert ended.checkpoint_step == (5 if behave == "wait" else None)
    assert not alive(pid)


@pytest.mark.parametrize("cause", ["a file where the folder should be", "no such command"])
def test_a_process_that_cannot_start_counts_as_a_death(
    store: JobStore, settings: Settings, stopping: threading.Event, add: Add, cause: str
) -> None:
    job = add()
    if cause == "a file where the folder should be":
        settings.jobs_dir.mkdir()
        (settings.jobs_dir / job.id).write_text(cause)
    broken = Supervisor(store, settings, stopping, command=lambda folder, _type: [str(folder / "missing")])
    assert broken.run(job.queue) is Outcome.QUEUED_AGAIN
    waiting = store.get(job.id)
    assert waiting.error is not None
    assert "did not start" in waiting.error["detail"]
    assert waiting.attempts_without_progress == 1


def test_new_checkpoints_keep_a_dying_job_alive(
    store: JobStore, settings: Settings, stopping: threading.Event, add: Add
) -> None:
    strict = settings.model_copy(update={"max_attempts_without_progress": 1})
    supervisor = Supervisor(store, strict, stopping, command=fake_command)
    job = add("die-with-progress")
    outcomes = [supervisor.run(job.queue) for _ in range(3)]
    assert outcomes == [Outcome.QUEUED_AGAIN, Outcome.QUEUED_AGAIN, Outcome.SUCCEEDED]
    assert store.get(job.id).checkpoint_step == 3
    assert store.get(job.id).error is None


def test_a_machine_on_which_everything_dies_rests_longer_and_longer(
    supervisor: Supervisor, store: JobStore, add: Add
) -> None:
    assert supervisor.back_off_s == 0
    pauses = []
    for _ in range(8):
        job = add("die")
        supervisor.run(job.queue)
        store.request_cancel(job.id)
        pauses.append(supervisor.back_off_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    supervisor._deaths = 5000
    assert supervisor.back_off_s == 60, "also after days"
    assert supervisor.run(add("succeed").queue) is Outcome.SUCCEEDED
    assert supervisor.back_off_s == 0


def test_a_trainer_that_hangs_is_killed_and_counts_as_dead(
    store: JobStore, settings: Settings, stopping: threading.Event, add: Add
) -> None:
    impatient = settings.model_copy(update={"stall_seconds": 8.0, "max_attempts_without_progress": 1})
    job = add("deaf")
    assert Supervisor(store, impatient, stopping, command=fake_command).run(job.queue) is Outcome.FAILED
    assert not alive(trainer_pid(settings, job))
    error = store.get(job.id).error
    assert error is not None
    assert error["type"] == "trainer-stalled"


def test_preemption_is_no_failure(supervisor: Supervisor, store: JobStore, stopping: threading.Event, add: Add) -> None:
    job = add("wait-once")
    running = Background(supervisor, store, job)
    stopping.set()
    assert running.end() is Outcome.QUEUED_AGAIN
    back = store.get(job.id)
    assert (back.status, back.attempts_without_progress, back.checkpoint_step, back.error) == (
        Status.QUEUED,
        0,
        5,
        None,
    )
    assert supervisor.run(job.queue) is Outcome.NOT_TAKEN, "a stopping worker takes nothing"
    stopping.clear()
    assert supervisor.run(job.queue) is Outcome.SUCCEEDED
    assert store.get(job.id).attempts == 2


def test_a_lost_lease_kills_the_trainer(supervisor: Supervisor, store: JobStore, settings: Settings, add: Add) -> None:
    job = add("wait")
    running = Background(supervisor, store, job)
    pid = trainer_pid(settings, job)
    # What another worker's reconciler does after an outage of this one.
    client = store._client

    def expire() -> bool:
        # A heartbeat may come in between.
        client.hset(f"{settings.key_prefix}job:{job.id}", "lease_expires", 0)
        return store.expire(job.id, 3) == "queued"

    until(expire)
    assert take(store, job, "another", 30) == 2
    assert running.end() is Outcome.LOST
    assert not alive(pid)
    assert store.get(job.id).worker == "another"


def test_the_lease_lives_as_long_as_the_trainer(
    store: JobStore, settings: Settings, stopping: threading.Event, add: Add
) -> None:
    short = settings.model_copy(update={"lease_seconds": 1.2, "heartbeat_seconds": 0.2})
    job = add("wait")
    running = Background(Supervisor(store, short, stopping, command=fake_command), store, job)
    deadline = time.monotonic() + 2  # longer than a lease
    while time.monotonic() < deadline:
        assert store.expired_leases() == []
        time.sleep(0.1)
    store.request_cancel(job.id)
    assert running.end() is Outcome.CANCELLED


def test_training_goes_on_while_the_broker_is_down(
    supervisor: Supervisor, store: JobStore, settings: Settings, broker: EmbeddedBroker, add: Add
) -> None:
    job = add("wait")
    running = Background(supervisor, store, job)
    pid = trainer_pid(settings, job)
    broker.stop()
    time.sleep(1)
    assert alive(pid)
    again = EmbeddedBroker(settings)
    again.start()
    try:
        store.request_cancel(job.id)
        assert running.end() is Outcome.CANCELLED
        assert store.get(job.id).status is Status.CANCELLED
    finally:
        again.stop()


def test_an_attempt_runs_although_the_answers_of_the_store_are_lost(
    losing: LosesAnswers, settings: Settings, stopping: threading.Event, add: Add
) -> None:
    job = add("succeed")
    losing.lose = {"take": 2, "get": 1}
    assert Supervisor(losing, settings, stopping, command=fake_command).run(job.queue) is Outcome.SUCCEEDED
    assert losing.get(job.id).attempts == 1


@pytest.mark.parametrize(
    ("behave", "outcome"), [("succeed", Outcome.SUCCEEDED), ("refuse", Outcome.FAILED), ("die", Outcome.QUEUED_AGAIN)]
)
def test_the_outcome_is_known_although_the_answer_to_the_end_is_lost(
    losing: LosesAnswers, settings: Settings, stopping: threading.Event, add: Add, behave: str, outcome: Outcome
) -> None:
    losing.lose = {"leave": 2}
    job = add(behave)
    assert Supervisor(losing, settings, stopping, command=fake_command).run(job.queue) is outcome
    assert losing.lose == {"leave": 0}
    if behave == "refuse":
        assert losing.get(job.id).error == {"type": "diverged", "title": "Diverged", "detail": "loss is NaN"}


def test_a_stopping_worker_gives_up_a_delivery_in_an_outage_and_the_job_is_not_blamed(
    losing: LosesAnswers,
    settings: Settings,
    stopping: threading.Event,
    add: Add,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("snf_worker.runtime.supervisor._STOPPING_PATIENCE_S", 0.0)
    short = settings.model_copy(update={"lease_seconds": 0.1})
    job = add("succeed")
    losing.lose = {"take": 100}
    threading.Timer(0.3, stopping.set).start()
    with pytest.raises(BrokerDown):
        Supervisor(losing, short, stopping, command=fake_command).run(job.queue)
    time.sleep(0.15)
    assert losing.expire(job.id, 1) == "queued"
    assert losing.get(job.id).attempts_without_progress == 0


def test_a_death_counts_once_however_often_it_is_written(
    losing: LosesAnswers, settings: Settings, stopping: threading.Event, add: Add
) -> None:
    supervisor = Supervisor(losing, settings, stopping, command=fake_command)
    losing.lose = {"put_back": 3}
    assert supervisor.run(add("die").queue) is Outcome.QUEUED_AGAIN
    assert supervisor.back_off_s == 1


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_trainer_told_to_stop_by_somebody_else_is_preempted(
    supervisor: Supervisor, store: JobStore, settings: Settings, add: Add, signal_number: signal.Signals
) -> None:
    job = add("wait")
    running = Background(supervisor, store, job)
    os.kill(trainer_pid(settings, job), signal_number)
    assert running.end() is Outcome.QUEUED_AGAIN


def test_a_job_that_fills_the_disk_waits_for_room(
    supervisor: Supervisor, store: JobStore, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total=64 * MIB, free=20 * MIB)
    job = add("full-once")
    assert supervisor.run(job.queue) is Outcome.QUEUED_AGAIN
    waiting = store.get(job.id)
    assert (waiting.status, waiting.checkpoint_step) == (Status.QUEUED, 1)
    assert waiting.error == {
        "type": "storage-full",
        "title": "There is no room on the disk",
        "detail": "the disk is full or takes no writes; the checkpoints of the job are kept",
    }
    disk.free = MIB
    outcomes: list[Outcome] = []
    waits = threading.Thread(target=lambda: outcomes.append(supervisor.run(job.queue)), daemon=True)
    waits.start()
    time.sleep(1.5)
    assert store.get(job.id).status is Status.QUEUED, "a job that runs would only meet the full disk again"
    disk.free = 40 * MIB
    waits.join(60)
    assert outcomes == [Outcome.SUCCEEDED]
    assert (store.get(job.id).attempts, store.get(job.id).error) == (2, None)


def test_a_job_whose_output_is_on_a_full_disk_is_tried_when_that_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the jobs has as much room as before."""
    jobs, output = tmp_path / "jobs", tmp_path / "output"
    free = {jobs: 2**30, output: 0}
    monkeypatch.setattr("snf_worker.runtime.supervisor.usable_bytes", free.__getitem__)
    room = DiskSpaceGuard(jobs)
    room.note_failure("job", output)
    assert room.waiting() == ["job"]
    free[output] = 2**30
    assert room.waiting() == []


def test_a_worker_that_waits_for_room_can_stop(
    supervisor: Supervisor, store: JobStore, stopping: threading.Event, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, total=64 * MIB, free=MIB)
    job = add("succeed")
    threading.Timer(0.3, stopping.set).start()
    assert supervisor.run(job.queue) is Outcome.NOT_TAKEN
    assert store.get(job.id).status is Status.QUEUED


def test_a_job_that_needs_more_room_is_tried_when_there_is_more_and_lets_others_pass(
    supervisor: Supervisor, store: JobStore, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, total=64 * MIB, free=20 * MIB)
    monkeypatch.setattr("snf_worker.runtime.supervisor.BACK_OFF_S", 0.0)
    job = add("full")
    for attempt in range(1, 5):
        disk.free += 4 * MIB
        assert supervisor.run(job.queue) is Outcome.QUEUED_AGAIN
        waiting = store.get(job.id)
        assert (waiting.attempts, waiting.attempts_without_progress) == (attempt, 0)
        assert supervisor.run(job.queue) is Outcome.NOT_TAKEN, "there is no more room than at its last attempt"
    assert supervisor.run(add("succeed").queue) is Outcome.SUCCEEDED
    assert supervisor.back_off_s == 0
    monkeypatch.setattr("snf_worker.runtime.supervisor.BACK_OFF_S", 30.0)
    disk.free += 4 * MIB
    assert supervisor.run(job.queue) is Outcome.NOT_TAKEN, "there is more room, but it was tried just now"
    monkeypatch.setattr("snf_worker.runtime.supervisor.RETRY_S", 0.0)
    assert [supervisor.run(job.queue) for _ in range(2)] == [Outcome.QUEUED_AGAIN] * 2, (
        "an hour later it is tried again"
    )


def test_a_worker_waits_for_a_home_that_can_be_written(
    supervisor: Supervisor, store: JobStore, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add("succeed")
    outcomes: list[Outcome] = []
    waits = threading.Thread(target=lambda: outcomes.append(supervisor.run(job.queue)), daemon=True)
    with monkeypatch.context() as read_only:
        access = os.access
        read_only.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0 and access(path, mode))
        waits.start()
        time.sleep(1.2)
        assert (store.get(job.id).status, store.get(job.id).attempts) == (Status.QUEUED, 0)
    waits.join(60)
    assert outcomes == [Outcome.SUCCEEDED]


def test_a_process_that_could_write_no_event_met_what_the_folder_is(
    store: JobStore, settings: Settings, stopping: threading.Event, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mount_read_only(folder: Path, kind: JobType) -> list[str]:
        monkeypatch.setattr("snf_worker.runtime.supervisor.folder_problem", lambda *_, **__: "read-only")
        return fake_command(folder, kind)

    job = add("full-once")
    supervisor = Supervisor(store, settings, stopping, command=mount_read_only)
    assert supervisor.run(job.queue) is Outcome.QUEUED_AGAIN
    error = store.get(job.id).error
    assert error is not None
    assert (error["type"], error["title"]) == ("storage-read-only", "The disk cannot be written")


@pytest.mark.parametrize(("number", "slug"), [(errno.ENOSPC, "storage-full"), (errno.EROFS, "storage-read-only")])
def test_a_folder_that_cannot_be_made_waits_for_the_disk(
    supervisor: Supervisor, store: JobStore, add: Add, monkeypatch: pytest.MonkeyPatch, number: int, slug: str
) -> None:
    def full(_folder: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("snf_worker.runtime.supervisor.make_folder", full)
    job = add("succeed")
    assert supervisor.run(job.queue) is Outcome.QUEUED_AGAIN
    error = store.get(job.id).error
    assert error is not None
    assert error["type"] == slug
    assert store.get(job.id).attempts_without_progress == 0


def test_a_helper_without_room_starts_nothing_and_comes_again(
    store: JobStore, settings: Settings, stopping: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = store.create(new_job(type="score", queue=Queue.SCORE))
    (settings.jobs_dir / job.id).mkdir(parents=True)
    helper = HelperProcess(store, settings, stopping, "cpu", [Queue.SCORE])
    assert helper.run() is None, "no job runs"
    store.renew(job.id, take(store, job, lease_s=60), 60, {"progress": {"step": 1}})
    store.shards(job.id).offer([1])
    codes = [ExitCode.NO_ROOM, ExitCode.REFUSED]

    def command(_folder: Path) -> list[str]:
        return [sys.executable, "-c", f"raise SystemExit({int(codes.pop(0))})"]

    monkeypatch.setattr("snf_worker.runtime.supervisor.helper_command", command)
    with monkeypatch.context() as full:
        Disk(full, total=64 * MIB, free=MIB)
        assert helper.run() is None
    assert [helper.run() for _ in range(3)] == [ExitCode.NO_ROOM, ExitCode.REFUSED, None]


def test_a_full_disk_ends_the_process_of_a_helper(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(score, "score_free_parts", full)
    assert score.assist(settings.home, settings, StopFlag()) == ExitCode.NO_ROOM


def test_a_helper_leaves_a_job_that_has_no_plan_yet(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(scoring().model_dump_json())
    assert score.assist(tmp_path, settings, StopFlag()) == ExitCode.DONE


def test_a_scoring_that_ray_runs_takes_no_helpers(settings: Settings) -> None:
    with_ray = settings.model_copy(update={"ray_address": "127.0.0.1:6379"})
    below = scoring(parameters={"output": "file:///scores"})
    assert not takes_helpers(below, with_ray)
    assert takes_helpers(below, settings)
    assert takes_helpers(scoring(), with_ray), "workers score what has no output"
    assert not takes_helpers(new_job(), settings), "a training"
