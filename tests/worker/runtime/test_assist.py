"""Assistants on a disk that is full."""

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from snf_worker.attempts import score
from snf_worker.attempts.run_attempt import JobSpec, StopFlag
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.helper import HelperProcess, takes_assistants
from snf_worker.runtime.process import ExitCode
from snf_worker.settings import Settings
from tests.support.disks import MIB, Disk
from tests.worker.support.helpers import new_job
from tests.worker.support.scoring import scoring


def test_an_assistant_without_room_starts_nothing_and_comes_again(
    store: JobStore, settings: Settings, stopping: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = store.create(new_job(type="score", queue=Queue.SCORE))
    (settings.jobs_dir / job.id).mkdir(parents=True)
    store.take(job.id, "w", 60)
    assistant = HelperProcess(store, settings, stopping, "cpu", [Queue.SCORE])
    codes = [ExitCode.NO_ROOM, ExitCode.REFUSED]

    def command(_folder: Path) -> list[str]:
        return [sys.executable, "-c", f"raise SystemExit({int(codes.pop(0))})"]

    monkeypatch.setattr("snf_worker.runtime.helper.assistant_command", command)
    with monkeypatch.context() as full:
        Disk(full, total=64 * MIB, free=MIB)
        assert assistant.run(job.id) is None
    assert [assistant.run(job.id) for _ in range(3)] == [ExitCode.NO_ROOM, ExitCode.REFUSED, None]


def test_a_full_disk_ends_the_process_of_an_assistant(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(score, "score_free_parts", full)
    assert score.assist(settings.home, settings, StopFlag()) == ExitCode.NO_ROOM


def test_an_assistant_leaves_a_job_that_has_no_plan_yet(settings: Settings, tmp_path: Path) -> None:
    spec = JobSpec(id="j", attempt=1, model="m:1", dataset="d", parameters={}, promote=False)
    (tmp_path / "job.json").write_text(spec.model_dump_json())
    assert score.assist(tmp_path, settings, StopFlag()) == ExitCode.DONE


def test_a_scoring_that_ray_runs_takes_no_assistants(settings: Settings) -> None:
    with_ray = settings.model_copy(update={"ray_address": "127.0.0.1:6379"})
    below = scoring(parameters={"output": "file:///scores"})
    assert not takes_assistants(below, with_ray)
    assert takes_assistants(below, settings)
    assert takes_assistants(scoring(), with_ray), "workers score what has no output"
    assert not takes_assistants(new_job(), settings), "a training"
