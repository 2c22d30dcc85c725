"""What jobs took against their estimates corrects the next estimates."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.worker.support.helpers import new_job
from worker.broker.connection import redis_client
from worker.broker.embedded import EmbeddedBroker
from worker.jobs.duration_model import DurationModel
from worker.jobs.record import Job, Status
from worker.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def durations(settings: Settings, broker: EmbeddedBroker) -> DurationModel:
    return DurationModel(redis_client(settings), settings.key_prefix)


def done(seconds: float, expected: float = 10.0, slowness: float = 1.0, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "status": Status.SUCCEEDED,
        "attempts": 1,
        "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=seconds),
        "estimate": {"seconds": expected, "slowness": slowness},
    }
    return new_job(**(fields | changes))


def test_nothing_is_known_at_first(durations: DurationModel) -> None:
    assert durations.slowdown("cpu", "snf-glow-tiny") is None


def test_the_first_job_counts_whole_and_later_ones_by_half(durations: DurationModel) -> None:
    durations.learn(done(30), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 3.0
    # The next estimate was made with that slowdown, so what is compared is the time on the reference machine.
    durations.learn(done(50, expected=30, slowness=3.0), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 4.0


def test_another_preset_inherits_and_another_device_does_not(durations: DurationModel) -> None:
    durations.learn(done(20), "cpu")
    durations.learn(done(40, preset="snf-glow-small"), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 2.0
    assert durations.slowdown("cpu", "snf-glow-medium") == durations.slowdown("cpu", "snf-glow-small")
    assert durations.slowdown("cuda", "snf-glow-tiny") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"attempts": 2},
        {"status": Status.CANCELLED},
        {"estimate": None},
        {"estimate": {"seconds": 1.0, "slowness": 1.0, "basis": "guessed"}},
        {"parameters": {"max_minutes": 1}},
        {"started_at": None},
    ],
)
def test_other_jobs_change_nothing(durations: DurationModel, changes: dict[str, Any]) -> None:
    durations.learn(done(30, **changes), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") is None


def test_no_job_makes_an_estimate_absurd(durations: DurationModel) -> None:
    durations.learn(done(1e6), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 50.0


def test_what_earlier_versions_learned_still_counts(settings: Settings, durations: DurationModel) -> None:
    redis_client(settings).hset(f"{settings.key_prefix}pace", "cpu:snf-glow-tiny", "1.75")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 1.75
