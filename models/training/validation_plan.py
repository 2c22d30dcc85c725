"""Planning of the number and size of validations, so that they take a small share of training time."""

from __future__ import annotations

from dataclasses import dataclass

from models.training.config import TrainingConfig

VALIDATION_SHARE = 0.1
"""Largest share of the training time that validations may take, previews included."""
PLANNED_SHARE = 0.06
"""Share that is planned for them: the work of a validation is counted, and its time may differ."""
EVALUATION_SHARE = 0.25
"""Largest share of a budget in minutes for evaluation and calibration; with less time they have fewer images."""
STEPS_BETWEEN_VALIDATIONS = 25
"""Smallest number of steps between two validations."""
WANTED_VALIDATIONS = 4
"""Validations for which images are left out, where so many of all images would take too long."""
MIN_IMAGES = 64
"""Images that a validation has at least, where there are so many."""


@dataclass(frozen=True)
class PhaseSteps:
    """Time that validation, feature fitting and evaluation take, in units of one training step's time.

    Unknown durations are 0.

    Attributes:
        validation: A validation without its images: log-dets, freezing, preview and checkpoint.
        validation_image: One image of a validation.
        quality: Measuring the learned inverses in a validation; a part of ``validation``.
        features: Fit of the flows over features after the last step.
        evaluation: Evaluation and calibration of the finished model with all images.
    """

    validation: float = 0.0
    validation_image: float = 0.0
    quality: float = 0.0
    features: float = 0.0
    evaluation: float = 0.0


@dataclass(frozen=True)
class ValidationPlan:
    """Plan of how many validations a training run has, and how many images each validation uses.

    The validations are evenly spaced.
    """

    count: int
    images: int


def plan_validations(config: TrainingConfig, images: int, steps: int, costs: PhaseSteps) -> ValidationPlan:
    """Choose the number of validations, and of images in each, to take at most about 6 % of training time.

    Where the configured number of them takes longer, there are fewer; where fewer than four are left, each has fewer
    images. There is one validation at least, of at least 64 images. The plan depends on counted work alone, not on
    measured times, so that a training is the same each time.

    Args:
        config: The largest number of validations, and of images in each.
        images: Images that the dataset has for validations.
        steps: Steps of the training.
        costs: Costs of a validation in steps.
    """
    most_images = min(config.validation_images, images)
    most = max(1, min(config.validations, steps // STEPS_BETWEEN_VALIDATIONS))
    allowed = PLANNED_SHARE * steps
    if costs.validation_image > 0:
        affordable = (allowed / min(most, WANTED_VALIDATIONS) - costs.validation) / costs.validation_image
        most_images = min(most_images, max(MIN_IMAGES, int(affordable)))
    one = costs.validation + costs.validation_image * most_images
    return ValidationPlan(max(1, min(most, int(allowed / one))) if one > 0 else most, most_images)
