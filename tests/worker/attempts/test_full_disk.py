"""An attempt, which is forked, meets a full disk: the job waits for room, whatever can still be written."""

import sys
from pathlib import Path
from typing import Any

import pytest

from snf_worker.attempts.run_attempt import ProgressReporter, note_reporter
from snf_worker.jobs.events import FILE, EventLog, EventReader, read_chunk
from snf_worker.jobs.record import ExitCode
from snf_worker.runtime.supervisor import AttemptProcess
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job

pytestmark = pytest.mark.usefixtures("forked")

PROGRAM = """
import sys
from pathlib import Path
from snf_worker.attempts.run_attempt import prepare_process, run_attempt

def work(attempt):
    folder, events = attempt.folder, attempt.events
    events.write({{"event": "checkpoint", "step": 1}})
    {work}

raise SystemExit(run_attempt(work, Path(sys.argv[1]), *prepare_process()))
"""
WORK = {
    "a full disk": "Path('/dev/full').write_text('weights')",
    "a full disk without room for the event": (
        "events._file = open('/dev/full', 'ab', buffering=0); Path('/dev/full').write_text('weights')"
    ),
    "the reserve of the disk": (
        "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(total=64, free=0)\n"
        "    from snf_models.disk import new_folder\n"
        "    new_folder(folder / 'checkpoint').__enter__()"
    ),
}


READ_ONLY = """
import errno
import sys
from pathlib import Path
import snf_worker.attempts.run_attempt as module

def refuse(folder, attempt):
    raise OSError(errno.EROFS, "Read-only file system", str(folder / "events.jsonl"))

module.EventLog = refuse
raise SystemExit(module.run_attempt(lambda _: None, Path(sys.argv[1]), *module.prepare_process()))
"""


def run_attempt(program: str, settings: Settings) -> tuple[int | None, list[dict[str, Any]], str]:
    """Run an attempt by this program; return its exit code, events and log."""
    folder = settings.jobs_dir / "job"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(new_job(attempts=1, device="cpu").model_dump_json())
    reader = EventReader(folder, 1)
    command = [sys.executable, "-m", "tests.worker.support.given_program", program, str(folder)]
    process = AttemptProcess(command, folder, settings.environment())
    try:
        code = process.wait(60)
    finally:
        process.close()
    return code, reader.read(), (folder / "trainer.log").read_text()


def test_a_log_that_cannot_be_opened_is_a_disk_that_takes_no_writes(settings: Settings) -> None:
    assert run_attempt(READ_ONLY, settings)[0] == ExitCode.NO_ROOM


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full, whose writes fail")
@pytest.mark.parametrize("case", WORK)
def test_a_job_waits_for_room(case: str, settings: Settings) -> None:
    code, events, log = run_attempt(PROGRAM.format(work=WORK[case]), settings)
    assert code == ExitCode.NO_ROOM, log
    assert events[0]["event"] == "checkpoint"
    said = [event["type"] for event in events if event["event"] == "error"]
    assert said == ([] if "without" in case else ["storage-full"])


def test_a_full_quota_fails_the_job(settings: Settings) -> None:
    """A quota has no room again by itself."""
    work = "from snf_models.disk import DiskQuota\n    DiskQuota(folder, quota=1000).require(10**6)"
    code, events, log = run_attempt(PROGRAM.format(work=work), settings)
    assert code == ExitCode.REFUSED, log
    assert events[-1]["type"] == "storage-full"
    assert "1000000 bytes are needed" in events[-1]["detail"]
    assert "of the quota" in events[-1]["detail"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("snf_worker.attempts.run_attempt.time", clock)
    return clock


def events(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    return [event for _, event in read_chunk(folder / FILE).entries if event["event"] in kinds]


def test_reports_are_throttled_and_the_last_one_is_written(tmp_path: Path, clock: Clock) -> None:
    progress = ProgressReporter(EventLog(tmp_path, 1), 100, done=20)
    progress.report(30)  # too soon
    clock.now += 1
    progress.report(40)
    clock.now += 1
    progress.report(40)  # nothing new
    clock.now += 5
    progress.report(40)  # but a sign of life
    progress.report(100)
    (started,) = events(tmp_path, "started")
    assert (started["step"], started["steps"]) == (20, 100)
    written = events(tmp_path, "metrics")
    assert [event["step"] for event in written] == [40, 40, 100]
    first = {name: written[0][name] for name in ("steps", "progress", "images_per_second", "eta_seconds")}
    assert first == {"steps": 100, "progress": 0.4, "images_per_second": 20.0, "eta_seconds": 3.0}


def test_a_checkpoint_is_written_at_once(tmp_path: Path, clock: Clock) -> None:
    progress = ProgressReporter(EventLog(tmp_path, 1), 100)
    progress.checkpoint(7)
    progress.report(9)
    progress.checkpoint()
    assert [event["step"] for event in events(tmp_path, "checkpoint")] == [7, 9]


def test_the_preparation_of_images_is_reported_every_few_seconds(tmp_path: Path, clock: Clock) -> None:
    report = note_reporter(EventLog(tmp_path, 1), "prepares the images")
    report(1, 9)
    clock.now += 5
    report(2, 9)
    report(3, 9)
    assert [event["message"] for event in events(tmp_path, "log")] == ["prepares the images: 2 of 9"]


def test_parts_of_a_fit_add_up(tmp_path: Path, clock: Clock) -> None:
    fit = ProgressReporter(EventLog(tmp_path, 1), 100)
    for part, done in (("features", 20), ("features", 40), ("statistics", 10), ("statistics", 30), ("test", 60)):
        clock.now += 1
        fit.report(done, part=part)
    (started,) = events(tmp_path, "started")
    assert (started["step"], started["steps"]) == (0, 100)
    written = events(tmp_path, "metrics")
    assert [event["step"] for event in written] == [20, 40, 50, 70, 100]
    assert written[-1]["progress"] == 1
