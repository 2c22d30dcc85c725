import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snf_worker.jobs.event_file import FILE, Event, read_chunks

_PROGRESS = ("step", "steps", "epoch", "images_per_second", "eta_seconds")
_VERSION = ("model", "version", "ref")
_RESULTS = {
    "published": (*_VERSION, "live", "live_version", "unfit", "smallest_p"),
    "scored": ("model", "images", "anomalies", "errors", "output", "plan"),
    "calibrated": (*_VERSION, "calibration", "smallest_p", "active", "reason"),
    "evaluated": ("model", "auroc", "auroc_over_baseline", "false_alarms"),
    "recommended": ("proposal", "preset", "reasons", "seconds"),
    "limited": (*_VERSION, "limit", "calibration", "alpha", "sizes", "not_determinable"),
}
"""The keys of the event that ends each kind of job, which become its result."""
_METRICS = ("bits_per_dim", "reconstruction_error", "learning_rate")


class EventLog:
    """Writer that appends events to a job's event file, as JSON lines with the time and the attempt number."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._attempt = attempt
        self._file = (folder / FILE).open("ab+", buffering=0)  # stays open as long as the process runs
        # A killed attempt, or a full disk, may have left half a line; the next event must not be appended to it.
        self._half_line = bool(self._file.seek(0, os.SEEK_END)) and not _ends_line(self._file.fileno())

    def write(self, event: dict[str, Any]) -> None:
        """Append an event, whose key ``event`` names its type; raise ``OSError`` if the disk takes no writes."""
        stamped = {**event, "time": datetime.now(UTC).isoformat(), "attempt": self._attempt}
        line = json.dumps(stamped, separators=(",", ":")).encode() + b"\n"
        if self._half_line:
            line = b"\n" + line
        # One unbuffered write for each line: lines of two writers never mix.
        written = self._file.write(line)
        self._half_line = written < len(line)
        if self._half_line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class EventReader:
    def __init__(self, folder: Path, attempt: int) -> None:
        self._path = folder / FILE
        self._attempt = attempt
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> list[Event]:
        """Return the attempt's events since the last call; an incomplete line is left for a later call."""
        events: list[Event] = []
        for chunk in read_chunks(self._path, self._offset):
            self._offset = chunk.end
            # An earlier attempt that lost its lease may write events until it notices.
            events += [event for _, event in chunk.entries if event.get("attempt") == self._attempt]
        return events


class AttemptSummary:
    """Progress, metrics, checkpoint, result and error from the events of one attempt, for the job's record."""

    def __init__(self, progress: dict[str, Any], metrics: dict[str, Any], checkpoint_step: int | None) -> None:
        self.progress = dict(progress)
        self.metrics = dict(metrics)
        self.checkpoint_step = checkpoint_step
        self.new_checkpoint = False
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.changed = False

    def add(self, event: dict[str, Any]) -> None:
        """Update this summary with an event; other kinds of events are ignored."""
        kind = event["event"]
        if kind in ("metrics", "scoring"):
            self.progress.update({key: event[key] for key in _PROGRESS if key in event})
            self.metrics.update({key: event[key] for key in _METRICS if key in event})
            if "progress" in event:  # of the whole job, with the evaluation after the last step
                self.progress["fraction"] = event["progress"]
        elif kind == "validation":
            self.progress["step"] = event["step"]
            self.metrics["validation_bits_per_dim"] = event.get("bits_per_dim")
        elif kind == "evaluation":
            # Under a key of its own, because it is about the finished model and shares keys with metrics of steps.
            numbers = {key: value for key, value in event.items() if isinstance(value, int | float)}
            self.metrics["evaluation"] = _finite({key: value for key, value in numbers.items() if key != "attempt"})
        elif kind == "checkpoint" or (kind == "started" and event["step"] > (self.checkpoint_step or 0)):
            # An attempt may start from a checkpoint that an earlier one wrote before its worker vanished.
            step = self.progress["step"] = int(event["step"])
            if self.checkpoint_step is None or step > self.checkpoint_step:
                self.checkpoint_step, self.new_checkpoint = step, True
        elif kind in _RESULTS:
            # Attempts of earlier versions lack some of the keys. A calibration of theirs says nothing of `active`.
            missing = {"active": None, "reason": None} if kind == "calibrated" else {}
            self.result = missing | {key: event[key] for key in _RESULTS[kind] if key in event}
        elif kind == "error":
            self.error = {key: event.get(key, "") for key in ("type", "title", "detail")}
        else:
            return
        self.changed = True

    def changes(self) -> dict[str, Any]:
        """Return the fields of the job record to update; NaN and infinite values become None."""
        self.changed = False
        fields: dict[str, Any] = {"progress": _finite(self.progress), "metrics": _finite(self.metrics)}
        if self.checkpoint_step is not None:
            fields["checkpoint_step"] = self.checkpoint_step
        if self.new_checkpoint:
            fields["attempts_without_progress"] = 0
        return fields


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN: a diverged metric is shown as missing.
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in values.items()
    }


def _ends_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return os.pread(fd, 1, size - 1) == b"\n"
