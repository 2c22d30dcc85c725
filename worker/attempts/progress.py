"""Progress events of a running job."""

import time
from collections.abc import Callable

from worker.jobs.event_log import EventLog

REPORT_S = 0.5
"""Shortest time in seconds between two reports of a job's progress."""
UNCHANGED_S = 5.0
"""Time in seconds after which a report without any progress is written all the same."""
PREPARING_S = 5.0
"""Shortest time in seconds between two reports on the preparation of a dataset."""


class ProgressReporter:
    """Writer of progress events; speed and time left do not count the ``done`` steps of earlier attempts."""

    def __init__(self, events: EventLog, total: int, done: int = 0) -> None:
        self.done = done
        self._events = events
        self._total = total
        self._done_before = self._reported = done
        self._began = self._checked_at = self._reported_at = time.monotonic()
        events.write({"event": "started", "step": done, "steps": total})

    @property
    def due(self) -> bool:
        return time.monotonic() - self._checked_at >= REPORT_S

    def report(self, done: int, total: int | None = None) -> None:
        """Write a progress event, at most one every 0.5 s and always the last; ``total`` replaces the total."""
        self.done = done
        changed = total is not None and total != self._total
        self._total = total if total is not None else self._total
        self._checked_at = now = time.monotonic()
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


def write_note(events: EventLog, text: str) -> None:
    """Append a text message to the event file of a job, as an event of type ``log``."""
    events.write({"event": "log", "message": text})


def checking_reporter(events: EventLog) -> Callable[[int, int], None]:
    """Return a callback that reports the final check of score files, every few seconds at most."""
    reported_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= PREPARING_S:
            reported_at = time.monotonic()
            write_note(events, f"checking the parts: {done} of {total}")

    return report


class FitReporter:
    """Writer of progress events of a fit whose images pass through the model in several parts."""

    def __init__(self, events: EventLog, total: int) -> None:
        self._reporter = ProgressReporter(events, total)
        self._total = total
        self._part = ""
        self._before = self._done = 0

    @property
    def done(self) -> int:
        """The number of images processed so far; an image that is processed several times counts each time."""
        return self._reporter.done

    def report(self, part: str, done: int) -> None:
        if part != self._part:
            self._part, self._before = part, self._before + self._done
        self._done = done
        self._reporter.report(min(self._before + done, self._total))


class LabelledProgress:
    """Writer of progress events of a job that scores several named groups of images."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._reporter: ProgressReporter | None = None
        self._label = ""

    def report(self, label: str, done: int, total: int) -> None:
        """Write a progress event, every 0.5 s at most and always the last, and a log event for a new label."""
        self._reporter = self._reporter or ProgressReporter(self._events, total, done)
        if label != self._label:
            self._label = label
            write_note(self._events, label)
        self._reporter.report(done, total)

    def checkpoint(self) -> None:
        if self._reporter is not None:
            self._reporter.checkpoint()


class PreparationReporter:
    """Reporter that logs how many images have been resized so far while a job prepares a dataset."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._reported_at = time.monotonic()

    def report(self, done: int, total: int) -> bool:
        """Log how many images are resized, at most every 5 s; return whether an event was written."""
        if time.monotonic() - self._reported_at < PREPARING_S:
            return False
        self._reported_at = time.monotonic()
        write_note(self._events, f"prepares the images: {done} of {total}")
        return True
