"""What jobs took against their estimates corrects the next estimates."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.worker.support.helpers import new_job
from worker.broker.connection import redis_client
from worker.jobs.record import Job, Status
from worker.jobs.slowness import Pace
from worker.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def pace(settings: Settings, served: None) -> Pace:
    return Pace(redis_client(settings), settings.key_prefix)


def done(seconds: float, expected: float = 10.0, slowness: float = 1.0, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "status": Status.SUCCEEDED,
        "attempts": 1,
        "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=seconds),
        "estimate": {"seconds": expected, "slowness": slowness},
    }
    return new_job(**(fields | changes))


def test_nothing_is_known_at_first(pace: Pace) -> None:
    assert pace.slowness("cpu", "snf-glow-tiny") == (1.0, False)


def test_the_first_job_counts_whole_and_later_ones_by_half(pace: Pace) -> None:
    pace.learn(done(30), "cpu")
    assert pace.slowness("cpu", "snf-glow-tiny") == (3.0, True)
    # The next estimate was made with that slowness, so what is compared is the time on the reference machine.
    pace.learn(done(50, expected=30, slowness=3.0), "cpu")
    assert pace.slowness("cpu", "snf-glow-tiny") == (4.0, True)


def test_another_preset_inherits_and_another_device_does_not(pace: Pace) -> None:
    pace.learn(done(20), "cpu")
    pace.learn(done(40, preset="snf-glow-small"), "cpu")
    assert pace.slowness("cpu", "snf-glow-tiny")[0] == 2.0
    assert pace.slowness("cpu", "snf-glow-medium") == pace.slowness("cpu", "snf-glow-small")
    assert pace.slowness("cuda", "snf-glow-tiny") == (1.0, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"attempts": 2},
        {"status": Status.CANCELLED},
        {"estimate": None},
        {"parameters": {"max_minutes": 1}},
        {"started_at": None},
    ],
)
def test_jobs_that_say_nothing_of_the_pace_teach_nothing(pace: Pace, changes: dict[str, Any]) -> None:
    pace.learn(done(30, **changes), "cpu")
    assert pace.slowness("cpu", "snf-glow-tiny") == (1.0, False)


def test_no_job_makes_an_estimate_absurd(pace: Pace) -> None:
    pace.learn(done(1e6), "cpu")
    assert pace.slowness("cpu", "snf-glow-tiny") == (50.0, True)
