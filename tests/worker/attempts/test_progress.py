"""Progress reports of jobs: throttling, speed and time left, checkpoints."""

from pathlib import Path
from typing import Any

import pytest

from snf_worker.attempts.run_attempt import ProgressReporter, note_reporter
from snf_worker.jobs.events import FILE, EventLog, read_chunk


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


def test_without_any_progress_the_time_left_is_unknown(tmp_path: Path, clock: Clock) -> None:
    progress = ProgressReporter(EventLog(tmp_path, 1), 0)
    clock.now += 6
    progress.report(0)
    (event,) = events(tmp_path, "metrics")
    assert (event["progress"], event["images_per_second"], event["eta_seconds"]) == (0.0, 0.0, None)


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
