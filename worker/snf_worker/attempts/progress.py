"""Progress events of a running job."""

import time
from collections.abc import Callable

from snf_worker.jobs.event_log import EventLog

REPORT_S = 0.5
"""Shortest time in seconds between two reports of a job's progress."""
UNCHANGED_S = 5.0
"""Time in seconds after which a report without any progress is written all the same."""
NOTE_S = 5.0
"""Shortest time in seconds between two notes on the preparation of a dataset, or on the check of score files."""


class ProgressReporter:
    """Writer of progress events; speed and time left do not count the ``done`` steps of earlier attempts."""

    def __init__(self, events: EventLog, total: int, done: int = 0) -> None:
        self.done = done
        self._events = events
        self._total = total
        self._part, self._before_part = "", 0
        self._done_before = self._reported = done
        self._began = self._reported_at = time.monotonic()
        events.write({"event": "started", "step": done, "steps": total})

    def report(self, done: int, total: int | None = None, part: str = "") -> None:
        """Write a progress event, at most one every 0.5 s and always the last.

        ``total`` replaces the total. ``done`` counts from the begin of ``part``, where the work has several.
        """
        changed = total is not None and total != self._total
        self._total = total if total is not None else self._total
        if part != self._part:
            self._part, self._before_part = part, self.done
        self.done = done = min(self._before_part + done, self._total)
        now = time.monotonic()
        waited = now - self._reported_at
        if done == self._reported and not changed:
            if waited < UNCHANGED_S:
                return
        elif waited < REPORT_S and done < self._total:
            return
        self._reported, self._reported_at = done, now
        speed = (done - self._done_before) / max(now - self._began, 1e-3)
        self._events.write(
            {
                "event": "metrics",
                "step": done,
                "steps": self._total,
                "progress": done / max(self._total, 1),
                "images_per_second": speed,
                "eta_seconds": (self._total - done) / speed if speed > 0 else None,
            }
        )

    def checkpoint(self, done: int | None = None) -> None:
        """Write that the progress up to ``done``, by default the step reported last, is saved."""
        self.done = self.done if done is None else done
        self._events.write({"event": "checkpoint", "step": self.done})


def note_reporter(events: EventLog, text: str, go_on: Callable[[], None] = lambda: None) -> Callable[[int, int], None]:
    """Return a callback that notes the progress of a preparation or a check, every few seconds at most."""
    reported_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= NOTE_S:
            reported_at = time.monotonic()
            events.write({"event": "log", "message": f"{text}: {done} of {total}"})
        go_on()  # raises an error where the job must stop

    return report


class LabelledProgress:
    """Writer of progress events of a job that scores several named groups of images."""

    def __init__(self, events: EventLog, go_on: Callable[[], None]) -> None:
        self._events = events
        self._go_on = go_on  # raises an error where the job must stop
        self._reporter: ProgressReporter | None = None
        self._label = ""

    def report(self, label: str, done: int, total: int) -> None:
        """Write a progress event, every 0.5 s at most and always the last, and a log event for a new label."""
        self._go_on()
        self._reporter = self._reporter or ProgressReporter(self._events, total, done)
        if label != self._label:
            self._label = label
            self._events.write({"event": "log", "message": label})
        self._reporter.report(done, total)

    def checkpoint(self) -> None:
        if self._reporter is not None:
            self._reporter.checkpoint()
