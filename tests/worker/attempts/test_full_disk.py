"""An attempt that meets a full disk: the job waits for room, whatever can still be written."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.support.helpers import new_job
from worker.jobs.events import EventReader
from worker.runtime.process import AttemptProcess, ExitCode
from worker.settings import Settings

PROGRAM = """
from pathlib import Path
from worker.attempts.attempt import attempt

def work(folder, spec, settings, events, stop):
    events.write({{"event": "checkpoint", "step": 1}})
    {work}

raise SystemExit(attempt(work))
"""
WORK = {
    "a full disk": "Path('/dev/full').write_text('weights')",
    "a full disk without room for the event": (
        "events._file = open('/dev/full', 'ab', buffering=0); Path('/dev/full').write_text('weights')"
    ),
    "the reserve of the disk": (
        "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(total=64, free=0)\n"
        "    from models.atomic_files import new_folder\n"
        "    new_folder(folder / 'checkpoint').__enter__()"
    ),
}


def ended(work: str, settings: Settings) -> tuple[int | None, list[dict[str, Any]], str]:
    """Return the exit code, events and log of an attempt whose work is this code."""
    folder = settings.jobs_dir / "job"
    folder.mkdir(parents=True)
    spec = new_job().model_dump(mode="json") | {"attempt": 1, "device": "cpu"}
    (folder / "job.json").write_text(json.dumps(spec))
    reader = EventReader(folder, 1)
    command = [sys.executable, "-c", PROGRAM.format(work=work), str(folder)]
    process = AttemptProcess(command, folder, settings.environment())
    try:
        code = process.wait(60)
    finally:
        process.close()
    return code, reader.read(), (folder / "trainer.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full, whose writes fail")
@pytest.mark.parametrize("case", WORK)
def test_a_job_waits_for_room(case: str, settings: Settings) -> None:
    code, events, log = ended(WORK[case], settings)
    assert code == ExitCode.NO_ROOM, log
    assert events[0]["event"] == "checkpoint"
    said = [event["type"] for event in events if event["event"] == "error"]
    assert said == ([] if "without" in case else ["storage-full"])


def test_a_full_quota_fails_the_job(settings: Settings) -> None:
    """A quota has no room again by itself."""
    work = (
        "from models.datasets.ingest.limits import DiskQuota\n"
        "    DiskQuota(folder, quota=1000, reserve=0).require(10**6)"
    )
    code, events, log = ended(work, settings)
    assert code == ExitCode.REFUSED, log
    assert events[-1]["type"] == "storage-full"
    assert "1000000 bytes are needed" in events[-1]["detail"]
    assert "of the quota" in events[-1]["detail"]
