"""Helpers on a disk that is full."""

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from snf_worker.attempts import score
from snf_worker.attempts.run_attempt import StopFlag
from snf_worker.jobs.record import ExitCode, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import HelperProcess, takes_helpers
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk
from tests.worker.support.helpers import new_job, take
from tests.worker.support.scoring import scoring


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
