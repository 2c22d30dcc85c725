"""An attempt that meets a full disk: the job waits for room, whatever can still be written."""

import json
import sys
from pathlib import Path

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full, whose writes fail")
@pytest.mark.parametrize("case", WORK)
def test_a_job_waits_for_room(case: str, settings: Settings) -> None:
    folder = settings.jobs_dir / "job"
    folder.mkdir(parents=True)
    spec = new_job().model_dump(mode="json") | {"attempt": 1, "device": "cpu"}
    (folder / "job.json").write_text(json.dumps(spec))
    reader = EventReader(folder, 1)
    command = [sys.executable, "-c", PROGRAM.format(work=WORK[case]), str(folder)]
    process = AttemptProcess(command, folder, settings.environment())
    try:
        assert process.wait(60) == ExitCode.NO_ROOM, (folder / "trainer.log").read_text()
    finally:
        process.close()
    events = reader.read()
    assert events[0]["event"] == "checkpoint"
    said = [event["type"] for event in events if event["event"] == "error"]
    assert said == ([] if "without" in case else ["storage-full"])
