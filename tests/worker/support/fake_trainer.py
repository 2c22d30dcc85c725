"""A trainer without PyTorch for the supervisor's tests: it behaves as `parameters.behave` says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from snf_worker.attempts.run_attempt import StopFlag
from snf_worker.jobs.events import EventLog
from snf_worker.jobs.record import ExitCode


def main() -> int:
    stop = StopFlag()
    stop.install(20.0)
    folder = Path(sys.argv[1])
    spec = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    events = EventLog(folder, spec["attempts"])
    behave = spec["parameters"]["behave"]
    (folder / "pids").open("a").write(f"{os.getpid()}\n")
    events.write({"event": "metrics", "step": 1, "steps": 10, "bits_per_dim": 4.5, "learning_rate": 0.001})
    if behave == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behave == "die-with-progress":
        events.write({"event": "checkpoint", "step": spec["attempts"]})
        if spec["attempts"] < 3:
            return 1
    if behave == "wait-for-file":
        while not (folder / "go").exists() and not stop.is_set():
            time.sleep(0.02)
    if behave == "refuse":
        events.write({"event": "error", "type": "diverged", "title": "Diverged", "detail": "loss is NaN"})
        return ExitCode.REFUSED
    if behave == "full-once" and spec["attempts"] == 1:
        events.write({"event": "checkpoint", "step": 1})
        return ExitCode.NO_ROOM
    if behave == "full":
        return ExitCode.NO_ROOM
    if behave == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if behave == "wait" or (behave == "wait-once" and spec["attempts"] == 1):
        while not stop.is_set():
            time.sleep(0.02)
        events.write({"event": "checkpoint", "step": 5})
        return stop.exit_code
    published = {"model": spec["model"], "version": 1, "ref": f"{spec['model']}:1", "live": True, "unfit": []}
    events.write({"event": "published", **published})
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
