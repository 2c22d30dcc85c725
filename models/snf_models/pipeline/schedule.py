"""Progress of a training run, its validations, its end and the remaining time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import DatasetSummary
from snf_models.pipeline.checkpoint import TrainingState

VALIDATION_SHARE = 0.1  # largest share of the training time that validations may take, previews included
PLANNED_SHARE = 0.06  # share that is planned for them: the time of a validation is a rule of thumb, and may differ
EVALUATION_SHARE = 0.25
"""Largest share of a budget in minutes for evaluation and calibration; with less time they have fewer images."""
STEPS_BETWEEN_VALIDATIONS = 25  # smallest number of steps between two validations
WANTED_VALIDATIONS = 4  # validations for which images are left out, where so many of all images would take too long
MIN_IMAGES = 64  # images that a validation has at least, where there are so many
VALIDATION_STEPS = 5.0
"""Rule of thumb, in steps: log-dets, errors of learned inverses, preview and checkpoint of a validation."""
EVALUATION_PASSES = 2.0  # rule of thumb: an image is evaluated and calibrated in the time in which so many are trained


@dataclass(frozen=True)
class PhaseSteps:
    """Time of phases in units of one training step, 0 where unknown."""

    validation: float = 0.0  # without its images: log-dets, freezing, preview and checkpoint
    validation_image: float = 0.0  # one image of a validation
    quality: float = 0.0  # measuring the learned inverses, a part of ``validation``
    evaluation: float = 0.0  # with all images
    features_seconds: float = 0.0  # fit after the last step, in seconds


@dataclass(frozen=True)
class ValidationPlan:
    count: int
    images: int


def phases_in_steps(config: TrainingConfig, splits: DatasetSummary) -> PhaseSteps:
    """Return the other phases in steps, by numbers of images alone, so that no plan depends on the machine."""
    image = 1 / min(config.batch_size, splits.train)  # scored at most in the time in which it is trained
    held_out = splits.statistics + splits.calibration + splits.test
    return PhaseSteps(VALIDATION_STEPS, image, VALIDATION_STEPS, EVALUATION_PASSES * held_out * image)


def plan_validations(config: TrainingConfig, images: int, steps: int, costs: PhaseSteps) -> ValidationPlan:
    """Plan by numbers of steps and images alone: reduce the number of validations first, then the images of each."""
    most_images = min(config.validation_images, images)
    most = max(1, min(config.validations, steps // STEPS_BETWEEN_VALIDATIONS))
    allowed = PLANNED_SHARE * steps
    if costs.validation_image > 0:
        affordable = (allowed / min(most, WANTED_VALIDATIONS) - costs.validation) / costs.validation_image
        most_images = min(most_images, max(MIN_IMAGES, int(affordable)))
    one = costs.validation + costs.validation_image * most_images
    return ValidationPlan(max(1, min(most, int(allowed / one))) if one > 0 else most, most_images)


ALMOST_ALL = 1 - 1e-9  # largest share of its time that counts as used before a continued training has taken a step
QUICK_SECONDS = 0.3  # longest expected time of a part of a validation that is never left out


class Schedule:
    """Schedule of a training. A budget in minutes covers all from the start of the process to the written model."""

    def __init__(
        self, config: TrainingConfig, images: int, costs: PhaseSteps | None = None, began: float | None = None
    ) -> None:
        self._config = config
        self._images = images
        self._costs = costs or PhaseSteps()
        self._origin = time.monotonic() if began is None else began
        self._limit = None if config.max_minutes is None else 60 * config.max_minutes
        self._progress = 0.0
        self._validated_at = 0.0
        self._validation_seconds: float | None = None
        self._first_step = 0
        self._warm: TrainingState | None = None

    def resume(self, state: TrainingState) -> None:
        self._origin -= state.elapsed_seconds
        self._first_step = state.step
        self._validated_at = self.advance(state)

    @property
    def deadline(self) -> float | None:
        """Time of ``time.monotonic``; None without a time limit."""
        return None if self._limit is None else self._origin + self._limit

    def spent(self) -> float:
        """Return seconds since the process began, and in earlier interrupted runs."""
        return time.monotonic() - self._origin

    def advance(self, state: TrainingState) -> float:
        """Update and return the progress, the larger share of steps and of time, 0 to 1."""
        if self._warm is None and state.step > self._first_step:
            self._warm = state
        share = 1.0 if state.finished else state.step / self._config.max_steps
        if self._limit is not None and state.step:
            for_steps = self._limit - self._seconds_after(state)
            used = self.spent() / for_steps if for_steps > 0 else 1.0
            # A continued training takes at least one step: the weights are validated for the last time only after one.
            share = max(share, used if state.step > self._first_step else min(used, ALMOST_ALL))
        self._progress = min(1.0, share)
        return self._progress

    def expected_steps(self, state: TrainingState) -> int:
        """Return the steps of the whole training, an estimate if its time is limited."""
        if self._limit is None or self._progress <= 0:
            return self._config.max_steps
        return min(self._config.max_steps, max(state.step, round(state.step / self._progress)))

    def validation_images(self, state: TrainingState, before: float) -> int:
        """Return how many images validate after a step; 0 if no validation is due."""
        plan, progress = self._plan(state), self._progress
        if self._limit is None:
            due = int(progress * plan.count) > int(before * plan.count)
        else:
            taken = state.validation_seconds + self._next_validation_seconds(state)
            due = progress - self._validated_at >= 1 / plan.count and taken <= VALIDATION_SHARE * state.elapsed_seconds
        return plan.images if due or progress >= 1 else 0

    def measures_inverses(self, state: TrainingState, seconds: float) -> bool:
        """Return whether to measure learned inverses: if it is quick, or there is time."""
        expected = self._costs.quality * self._step_seconds(state)
        whole = max(seconds + expected, self._next_validation_seconds(state))
        return expected <= QUICK_SECONDS or state.validation_seconds + whole <= VALIDATION_SHARE * state.elapsed_seconds

    def validated(self, seconds: float) -> None:
        """Record the seconds of a validation, preview and checkpoint included."""
        self._validated_at, self._validation_seconds = self._progress, seconds

    def seconds_left(self, state: TrainingState) -> float:
        """Return the seconds until the model is evaluated, calibrated and written."""
        spent = state.elapsed_seconds if self._limit is None else self.spent()
        steps = spent * (1 - self._progress) / self._progress if self._progress > 0 else 0.0
        return steps + self._seconds_after(state)

    def fraction(self, state: TrainingState) -> float:
        """Return the completed fraction of the whole job, 0 before the first step."""
        spent = self.spent()
        return spent / max(spent + self.seconds_left(state), 1e-9) if self._progress > 0 else 0.0

    def _plan(self, state: TrainingState) -> ValidationPlan:
        return plan_validations(self._config, self._images, self.expected_steps(state), self._costs)

    def _seconds_after(self, state: TrainingState) -> float:
        """Return what the last validation and all that follows it take, as far as it is known."""
        step = self._step_seconds(state)
        evaluation = self._costs.evaluation * step
        if self._limit is not None:
            evaluation = min(evaluation, EVALUATION_SHARE * self._limit)
        last = self._next_validation_seconds(state) if self._progress < 1 else 0.0
        return last + self._costs.features_seconds + evaluation

    def _next_validation_seconds(self, state: TrainingState) -> float:
        """Return how long the next validation takes: as the last one, or by a rule of thumb before the first."""
        if self._validation_seconds is not None:
            return self._validation_seconds
        images = self._plan(state).images
        return (self._costs.validation + self._costs.validation_image * images) * self._step_seconds(state)

    def _step_seconds(self, state: TrainingState) -> float:
        """Return the mean time of a step of this attempt, without the slow first one; 0 before."""
        warm = self._warm
        if warm is None or state.step == warm.step:
            return 0.0
        seconds = state.elapsed_seconds - state.validation_seconds - warm.elapsed_seconds + warm.validation_seconds
        return max(seconds, 0.0) / (state.step - warm.step)
