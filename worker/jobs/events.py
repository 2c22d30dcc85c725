"""Events of a job: JSON lines that the trainer writes and the supervisor reads."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.jobs.journal import FILE, Event, read_chunks

_PROGRESS = ("step", "steps", "epoch", "images_per_second", "eta_seconds")
_METRICS = ("bits_per_dim", "reconstruction_error", "learning_rate")


class EventLog:
    """The trainer's side: appends one event a line, each stamped with time and attempt."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._attempt = attempt
        self._file = (folder / FILE).open("ab+", buffering=0)  # open for the process's life
        # A killed attempt may have left half a line; the next event must not be glued to it.
        if self._file.seek(0, os.SEEK_END) and not _ends_line(self._file.fileno()):
            self._file.write(b"\n")

    def write(self, event: dict[str, Any]) -> None:
        """Appends an event; it needs the key `event`."""
        stamped = {**event, "time": datetime.now(UTC).isoformat(), "attempt": self._attempt}
        # One unbuffered write a line: a reader never sees two writers' halves mixed.
        self._file.write(json.dumps(stamped, separators=(",", ":")).encode() + b"\n")


class EventReader:
    """The supervisor's side: reads the events that one attempt wrote after the reader was made."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._path = folder / FILE
        self._attempt = attempt
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> list[Event]:
        """The events of all lines completed since the last call."""
        found: list[Event] = []
        for chunk in read_chunks(self._path, self._offset):
            self._offset = chunk.end
            # A trainer that lost its lease may write until it learns so; that is not this attempt's progress.
            found += [event for _, event in chunk.entries if event.get("attempt") == self._attempt]
        return found


class AttemptSummary:
    """What the events of one attempt mean for the job record."""

    def __init__(self, progress: dict[str, Any], metrics: dict[str, Any], checkpoint_step: int | None) -> None:
        self.progress = dict(progress)
        self.metrics = dict(metrics)
        self.checkpoint_step = checkpoint_step
        self.new_checkpoint = False
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.changed = False

    def add(self, event: dict[str, Any]) -> None:
        """Takes one event in."""
        kind = event["event"]
        if kind == "metrics":
            self.progress.update({key: event[key] for key in _PROGRESS if key in event})
            self.metrics.update({key: event[key] for key in _METRICS if key in event})
            if "progress" in event:  # of the whole training, be it limited by steps or by time
                self.progress["fraction"] = event["progress"]
        elif kind == "validation":
            self.progress["step"] = event["step"]
            self.metrics["validation_bits_per_dim"] = event.get("bits_per_dim")
        elif kind == "evaluation":
            # Under a name of its own: it is of the finished model, not of a step, and some keys are the same.
            found = {key: value for key, value in event.items() if isinstance(value, int | float)}
            self.metrics["evaluation"] = _finite({key: value for key, value in found.items() if key != "attempt"})
        elif kind == "checkpoint" or (kind == "started" and event["step"] > (self.checkpoint_step or 0)):
            # An attempt that starts beyond the last one has found that of an earlier one whose worker vanished with it.
            step = self.progress["step"] = int(event["step"])
            if self.checkpoint_step is None or step > self.checkpoint_step:
                self.checkpoint_step, self.new_checkpoint = step, True
        elif kind == "published":
            self.result = {key: event[key] for key in ("model", "version", "ref")}
        elif kind == "scored":
            self.result = {key: event[key] for key in ("model", "images", "anomalies", "errors")}
        elif kind == "calibrated":
            self.result = {key: event[key] for key in ("model", "version", "ref", "calibration", "smallest_p")}
        elif kind == "evaluated":
            self.result = {key: event[key] for key in ("model", "auroc", "auroc_over_baseline", "false_alarms")}
        elif kind == "error":
            self.error = {key: event.get(key, "") for key in ("type", "title", "detail")}
        else:
            return
        self.changed = True

    def changes(self) -> dict[str, Any]:
        """The fields of the record that the events speak of; JSON numbers only, no NaN."""
        self.changed = False
        found: dict[str, Any] = {"progress": _finite(self.progress), "metrics": _finite(self.metrics)}
        if self.checkpoint_step is not None:
            found["checkpoint_step"] = self.checkpoint_step
        if self.new_checkpoint:
            found["attempts_without_progress"] = 0
        return found


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN: a diverged metric is shown as missing.
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in values.items()
    }


def _ends_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return os.pread(fd, 1, size - 1) == b"\n"
