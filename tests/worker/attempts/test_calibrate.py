"""Calibrating with real processes: published once, whoever dies, and nothing by one that was asked to stop."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from snf_models.datasets import DatasetStore, Source
from snf_models.registry.calibrations import NOT_ASKED, CalibrationStore
from snf_models.registry.registry import Registry
from snf_worker.jobs.events import AttemptSummary
from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.end_to_end.support.processes import halted, told_to_stop
from tests.models.datasets.upload_files import pngs, zipped
from tests.support.fork_server import ForkServer
from tests.support.trained import barely_trained
from tests.worker.support.helpers import new_job, until
from tests.worker.support.scoring import in_background

pytestmark = pytest.mark.usefixtures("forked")

MODEL = "digits:1"


def calibrating(**changes: Any) -> Job:
    return new_job(**{"type": "calibrate", "queue": Queue.SCORE, "model": MODEL, "parameters": {}} | changes)


@pytest.fixture(autouse=True)
def calibrations(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> CalibrationStore:
    """The calibrations of a small model, which is made here."""
    registry = Registry(settings.registry_dir)
    registry.publish(barely_trained(tmp_path_factory), "digits")
    return registry.calibrations("digits", 1)


def await_scoring(settings: Settings, job: Job) -> None:
    journal = settings.jobs_dir / job.id / "events.jsonl"
    until(lambda: journal.exists() and '"started"' in journal.read_text(), 60, every=0.01)


def test_a_process_that_is_killed_is_tried_again_and_publishes_once(
    real: Supervisor,
    store: JobStore,
    settings: Settings,
    calibrations: CalibrationStore,
    forked: ForkServer,
) -> None:
    job, _ = store.create(calibrating())
    thread, outcomes = in_background(real, job)
    await_scoring(settings, job)
    os.kill(forked.pids[str(settings.jobs_dir / job.id)], signal.SIGKILL)
    thread.join(60)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    assert calibrations.numbers() == [0]
    assert real.run(job.queue) is Outcome.SUCCEEDED
    done = store.get(job.id)
    made = {"model": "digits", "version": 1, "ref": MODEL, "calibration": 1, "smallest_p": 1 / 51}
    assert (done.result, done.attempts) == (made | {"active": True, "reason": None}, 2)
    assert (done.progress["step"], done.progress["steps"], done.progress["fraction"]) == (100, 100, 1)
    record = calibrations.record(1)
    assert (record.job, record.summary.dataset, record.summary.statistics_images) == (job.id, "mnist-mini", 50)
    assert calibrations.active() == 1

    # The worker died when all that was missing was the record of the success.
    again, _ = store.create(calibrating(parameters={"activate": False}))
    arrays = (calibrations.folder / "1" / "calibration.safetensors").read_bytes()
    assert calibrations.publish(arrays, record.summary, job=again.id, activate=False) == 2
    assert real.run(again.queue) is Outcome.SUCCEEDED
    result = store.get(again.id).result or {}
    assert (result["calibration"], result["active"], result["reason"]) == (2, False, NOT_ASKED)
    assert (calibrations.numbers(), calibrations.active()) == ([0, 1, 2], 1)


def test_one_that_is_cancelled_publishes_nothing(
    real: Supervisor, store: JobStore, settings: Settings, calibrations: CalibrationStore, forked: ForkServer
) -> None:
    job, _ = store.create(calibrating())
    thread, outcomes = in_background(real, job)
    await_scoring(settings, job)
    # It scores nothing until it is asked to end: the rest takes less time than that.
    with halted(forked.pids[str(settings.jobs_dir / job.id)]) as attempt:
        store.request_cancel(job.id)
        until(lambda: told_to_stop(attempt), 60)
    thread.join(60)
    assert outcomes == [Outcome.CANCELLED]
    assert calibrations.numbers() == [0]


def test_thirty_images_take_over_only_where_asked(
    real: Supervisor, store: JobStore, settings: Settings, tmp_path: Path, calibrations: CalibrationStore
) -> None:
    archive = tmp_path / "thirty.zip"
    archive.write_bytes(zipped(pngs(30)))
    DatasetStore(settings.datasets_dir).create("thirty", [Source(archive, "thirty.zip")])
    too_few = "its smallest p-value is 0.0769"
    cases: list[tuple[dict[str, Any], bool, str | None]] = [
        ({"activate": None}, False, too_few),
        ({"activate": False}, False, NOT_ASKED),
        ({"activate": True}, True, None),
    ]
    for number, (parameters, active, reason) in enumerate(cases, 1):
        job, _ = store.create(calibrating(dataset="thirty", parameters=parameters))
        assert real.run(job.queue) is Outcome.SUCCEEDED
        result = store.get(job.id).result or {}
        assert (result["calibration"], result["active"]) == (number, active)
        assert calibrations.active() == (number if active else 0)
        log = (settings.jobs_dir / job.id / "events.jsonl").read_text()
        [event] = [event for event in map(json.loads, log.splitlines()) if event["event"] == "calibrated"]
        assert (event["active"], event["reason"]) == (active, result["reason"])
        if reason is not None:
            assert result["reason"].startswith(reason)


def test_an_attempt_of_an_earlier_version_has_a_result() -> None:
    summary = AttemptSummary({}, {}, None)
    old = {"event": "calibrated", "model": "m", "version": 1, "ref": "m:1", "calibration": 1, "smallest_p": 0.5}
    summary.add(old)
    assert summary.result is not None
    assert (summary.result["calibration"], summary.result["active"]) == (1, None)
