"""What jobs took against their estimates corrects the next estimates."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.worker.support.helpers import fake_command, new_job
from worker.broker.connection import redis_client
from worker.broker.embedded import EmbeddedBroker
from worker.errors import BrokerDown
from worker.jobs.duration_model import DurationModel
from worker.jobs.record import Job, RequestedAction, Status
from worker.jobs.store import JobStore
from worker.runtime.supervisor import Outcome, Supervisor
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
        {"architecture": {"family": "glow", "training": {"max_minutes": 1}}},
        {"retry_of": "0" * 26},
        {"started_at": None},
    ],
)
def test_other_jobs_change_nothing(durations: DurationModel, changes: dict[str, Any]) -> None:
    durations.learn(done(30, **changes), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") is None


def test_a_job_that_lifts_the_limit_of_its_architecture_counts(durations: DurationModel) -> None:
    limited = {"family": "glow", "training": {"max_minutes": 1}}
    durations.learn(done(30, architecture=limited, parameters={"max_minutes": None}), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 3.0


def test_no_job_makes_an_estimate_absurd(durations: DurationModel) -> None:
    durations.learn(done(1e6), "cpu")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 50.0


def test_what_earlier_versions_learned_still_counts(settings: Settings, durations: DurationModel) -> None:
    redis_client(settings).hset(f"{settings.key_prefix}pace", "cpu:snf-glow-tiny", "1.75")
    assert durations.slowdown("cpu", "snf-glow-tiny") == 1.75


class PartlyDown(JobStore):
    """A job store that does not answer some calls; the trainer ends after the third renewal of its lease."""

    def __init__(self, settings: Settings, unanswered: str) -> None:
        super().__init__(redis_client(settings), settings.key_prefix)
        self._jobs = settings.jobs_dir
        self._unanswered = unanswered
        self._calls: Counter[str] = Counter()

    def _count(self, method: str) -> None:
        self._calls[method] += 1
        if f"{method} {self._calls[method]}" == self._unanswered:
            raise BrokerDown("no answer")

    def take(self, *args: Any, **more: Any) -> int | None:
        self._count("take")
        return super().take(*args, **more)

    def renew(self, job_id: str, *args: Any, **more: Any) -> RequestedAction:
        self._count("renew")
        if self._calls["renew"] == 3:
            (self._jobs / job_id / "go").touch()
        return super().renew(job_id, *args, **more)

    def finish(self, *args: Any, **more: Any) -> None:
        self._count("finish")
        super().finish(*args, **more)


@pytest.mark.parametrize("unanswered", ["", "take 1", "renew 1", "renew 2", "finish 1"])
def test_a_training_that_may_have_waited_for_the_broker_changes_nothing(
    durations: DurationModel, settings: Settings, stopping: threading.Event, add: Callable[..., Job], unanswered: str
) -> None:
    job = add("wait-for-file", estimate={"seconds": 10.0, "slowness": 1.0})
    store = PartlyDown(settings, unanswered)
    assert Supervisor(store, settings, stopping, fake_command, durations=durations).run(job.id) is Outcome.SUCCEEDED
    assert (durations.slowdown("cpu", job.preset) is None) == bool(unanswered)
