"""Jobs that meet a full disk, or one that takes no writes, wait for room: the supervisor with a fake trainer."""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snf_client.schemas.base import JobType
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import DiskSpaceGuard, Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk
from tests.worker.support.helpers import fake_command

Add = Callable[..., Job]


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
