"""Schedules."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from snf_client.schemas.training import MAX_STEPS, TrainingConfig
from snf_models.datasets import DatasetSummary
from snf_models.pipeline import schedule as module
from snf_models.pipeline.checkpoint import TrainingState
from snf_models.pipeline.schedule import (
    MIN_IMAGES,
    VALIDATION_SHARE,
    PhaseSteps,
    Schedule,
    phases_in_steps,
    plan_validations,
)
from tests.models.helpers import QUICK
from tests.models.training.runs import run, trainer_in

COSTS = PhaseSteps(validation=2.0, validation_image=0.005, evaluation=80.0)
"""A validation of 1,000 images takes as long as seven steps."""


@dataclass
class Played:
    """A training on a clock of its own: every duration is known, nothing is computed."""

    schedule: Schedule
    clock: list[float]
    step_seconds: float
    true_costs: PhaseSteps = COSTS
    first_step_seconds: float = 0.0
    state: TrainingState = field(default_factory=lambda: TrainingState(0, 0.0, None, None, "digest"))
    validations: list[tuple[int, int]] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)

    def run(self, steps: int = MAX_STEPS) -> Played:
        """Take ``steps`` steps at most, with the validations that are due."""
        self.schedule.resume(self.state)
        progress = self.schedule.advance(self.state)
        first = True
        while progress < 1 and steps:
            self._pass(self.step_seconds + (self.first_step_seconds if first else 0.0), step=1)
            first, steps, before = False, steps - 1, progress
            progress = self.schedule.advance(self.state)
            self.fractions.append(self.schedule.fraction(self.state))
            self.left.append(self.schedule.seconds_left(self.state))
            images = self.schedule.validation_images(self.state, before)
            if images:
                seconds = (self.true_costs.validation + self.true_costs.validation_image * images) * self.step_seconds
                self._pass(seconds, validating=True)
                self.schedule.validated(seconds)
                self.validations.append((self.state.step, images))
        return self

    def _pass(self, seconds: float, step: int = 0, *, validating: bool = False) -> None:
        self.clock[0] += seconds
        self.state = replace(
            self.state,
            step=self.state.step + step,
            elapsed_seconds=self.state.elapsed_seconds + seconds,
            validation_seconds=self.state.validation_seconds + (seconds if validating else 0.0),
        )

    @property
    def validation_share(self) -> float:
        """Share of the training time that validations took."""
        return self.state.validation_seconds / self.state.elapsed_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at 1000 s."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def timed(minutes: float, **changes: int) -> TrainingConfig:
    """Settings of a training that minutes alone limit."""
    return TrainingConfig.model_validate({"max_minutes": minutes, "max_steps": MAX_STEPS, **changes})


@pytest.mark.parametrize(
    ("minutes", "step_seconds"),
    # From 30 to 6,000 steps: each takes a fraction of a millisecond here.
    [(1, 0.01), (1, 0.05), (1, 0.4), (1, 2.0), (3, 0.4), (10, 0.4), (60, 2.0)],
)
@pytest.mark.parametrize("off", [0.5, 1.0, 2.0])
def test_a_budget_in_minutes_holds_start_steps_validations_and_evaluation(
    clock: list[float], minutes: float, step_seconds: float, off: float
) -> None:
    """Steps end when what follows still fits, also where the rule of thumb is off by a factor of two."""
    schedule = Schedule(timed(minutes), 5000, COSTS, began=clock[0] - 5)
    true = PhaseSteps(COSTS.validation * off, COSTS.validation_image * off, evaluation=COSTS.evaluation)
    played = Played(schedule, clock, step_seconds, true, first_step_seconds=1.0).run()
    evaluation = min(COSTS.evaluation * step_seconds, 0.25 * 60 * minutes)
    assert schedule.spent() + evaluation == pytest.approx(60 * minutes, rel=0.12)
    assert played.validations[-1][0] == played.state.step
    last = (true.validation + true.validation_image * played.validations[-1][1]) * step_seconds
    assert played.state.validation_seconds <= VALIDATION_SHARE * played.state.elapsed_seconds + last


@pytest.mark.parametrize("step_seconds", [0.02, 0.05, 0.4])
def test_validations_take_a_tenth_of_a_budget_in_minutes_at_most(clock: list[float], step_seconds: float) -> None:
    """A validation with determinants that take as long as 40 steps."""
    heavy = replace(COSTS, validation=40.0)
    played = Played(Schedule(timed(3), 5000, heavy), clock, step_seconds, heavy).run()
    assert played.validation_share <= VALIDATION_SHARE + 0.02
    assert len(played.validations) >= 1


def test_progress_counts_the_evaluation(clock: list[float]) -> None:
    """At the last step the time left is that of the evaluation; no training is done and evaluates for minutes."""
    for config in (TrainingConfig(max_steps=400), timed(2)):
        played = Played(Schedule(config, 5000, COSTS), clock, 0.25).run()
        assert played.left[-1] == pytest.approx(COSTS.evaluation * 0.25, rel=0.1)
        fitting = Played(Schedule(config, 5000, replace(COSTS, features_seconds=7.0)), clock, 0.25).run()
        assert fitting.left[-1] == pytest.approx(7 + COSTS.evaluation * 0.25, rel=0.1)
        assert played.fractions[-1] < 0.95
        halfway = played.fractions[len(played.fractions) // 2]
        assert 0.35 < halfway < 0.5


def test_a_slow_first_step_ends_no_training(clock: list[float]) -> None:
    """A validation is 200 steps long: by the first step alone it would fill the whole budget."""
    costs = replace(COSTS, validation=200.0)
    played = Played(Schedule(timed(1), 5000, costs), clock, 0.05, costs, first_step_seconds=3.0).run()
    assert played.state.step > 500


def test_an_interrupted_training_keeps_its_budget(clock: list[float]) -> None:
    first = Played(Schedule(timed(3), 5000, COSTS), clock, 0.1).run(steps=600)
    clock[0] += 3600
    second = Played(Schedule(timed(3), 5000, COSTS), clock, 0.1, state=first.state).run()
    assert second.state.elapsed_seconds + COSTS.evaluation * 0.1 == pytest.approx(180, rel=0.05)


def test_an_interrupted_training_whose_minutes_are_used_up_is_validated(tmp_path: Path) -> None:
    """The process that goes on took longer to start than was left."""
    config = QUICK.model_copy(update={"max_minutes": 5.0, "max_steps": MAX_STEPS})
    run(tmp_path, config, stop_at=2)
    trainer, _ = trainer_in(tmp_path, config)
    trainer.schedule = Schedule(config, len(trainer.dataset.statistics), began=time.monotonic() - 301)
    trained = trainer.run(lambda: False)
    assert trained.step == trained.best_step == 3
    assert trainer.optimizer.param_groups[0]["lr"] < 0.1 * config.learning_rate, "the last step, not one of the first"
    again, events = trainer_in(tmp_path, config)
    assert again.run(lambda: False).step == 3
    assert "validation" not in {event["event"] for event in events}


def test_learned_inverses_are_measured_where_there_is_time(clock: list[float]) -> None:
    costs = replace(COSTS, quality=8.0)
    played = Played(Schedule(timed(1), 5000, costs), clock, 0.4, costs).run(steps=10)
    early, late = played.state, replace(played.state, elapsed_seconds=100.0, step=250)
    assert not played.schedule.measures_inverses(early, 1.0)
    assert played.schedule.measures_inverses(late, 1.0)
    quick = Played(Schedule(timed(1), 5000, costs), clock, 0.01, costs).run(steps=10)
    assert quick.schedule.measures_inverses(quick.state, 1.0), "it is quick"


def test_validations_of_steps_do_not_depend_on_time(clock: list[float]) -> None:
    """The weights that are kept follow from settings and data alone, also after an interruption."""
    config = TrainingConfig(max_steps=500)
    slow, fast = (Played(Schedule(config, 5000, COSTS), clock, seconds).run() for seconds in (0.3, 0.01))
    half = Played(Schedule(config, 5000, COSTS), clock, 0.3).run(steps=260)
    rest = Played(Schedule(config, 5000, COSTS), clock, 0.02, state=half.state).run()
    assert slow.validations == fast.validations == [*half.validations, *rest.validations]
    assert slow.validation_share <= VALIDATION_SHARE


@pytest.mark.parametrize("steps", [60, 100, 400, 2000, 100_000])
@pytest.mark.parametrize("fixed", [0.0, 2.0, 20.0])
def test_planned_validations_take_less_than_a_tenth(steps: int, fixed: float) -> None:
    costs = PhaseSteps(fixed, 0.005)
    plan = plan_validations(TrainingConfig(max_steps=steps), 5000, steps, costs)
    assert 1 <= plan.count <= 20
    assert MIN_IMAGES <= plan.images <= 1000
    if plan.count > 1:
        assert plan.count * (fixed + plan.images * costs.validation_image) <= VALIDATION_SHARE * steps
    if steps == 100_000:
        assert plan == plan_validations(TrainingConfig(max_steps=steps), 5000, steps, PhaseSteps())


def test_other_phases_follow_from_numbers_of_images() -> None:
    costs = phases_in_steps(TrainingConfig(batch_size=50), DatasetSummary((1, 28, 28), 800, 100, 100, 50))
    assert (costs.validation_image, costs.evaluation) == (1 / 50, 2 * 250 / 50)
    few = phases_in_steps(TrainingConfig(batch_size=50), DatasetSummary((1, 28, 28), 10, 2, 2, 2))
    assert few.validation_image == 1 / 10


def test_short_trainings_validate_at_their_end() -> None:
    plan = plan_validations(TrainingConfig(max_steps=14), 5000, 14, COSTS)
    assert (plan.count, plan.images) == (1, MIN_IMAGES)
    few = plan_validations(TrainingConfig(max_steps=14), 50, 14, COSTS)
    assert few.images == 50
