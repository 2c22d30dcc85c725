"""Number and size of validations, so that they take a small share of training time."""

from __future__ import annotations

from dataclasses import dataclass

from snf_models.datasets import DatasetSummary
from snf_models.training.config import TrainingConfig

VALIDATION_SHARE = 0.1
"""Largest share of the training time that validations may take, previews included."""
PLANNED_SHARE = 0.06
"""Share that is planned for them: the time of a validation is a rule of thumb, and may differ."""
EVALUATION_SHARE = 0.25
"""Largest share of a budget in minutes for evaluation and calibration; with less time they have fewer images."""
STEPS_BETWEEN_VALIDATIONS = 25
"""Smallest number of steps between two validations."""
WANTED_VALIDATIONS = 4
"""Validations for which images are left out, where so many of all images would take too long."""
MIN_IMAGES = 64
"""Images that a validation has at least, where there are so many."""
VALIDATION_STEPS = 5.0
"""Rule of thumb, in steps: log-dets, errors of learned inverses, preview and checkpoint of a validation."""
EVALUATION_PASSES = 2.0
"""Rule of thumb: an image is evaluated and calibrated in the time in which so many are trained."""


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
