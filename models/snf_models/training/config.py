"""Settings of a training run. The module does not import PyTorch, as the service validates jobs with it."""

from __future__ import annotations

import math

from snf_client.schemas.training import TrainingConfig

__all__ = ["INITIALIZATION_IMAGES", "TrainingConfig", "earlier_settings", "learning_rate_at"]

INITIALIZATION_IMAGES = 512
"""Number of images that initialise the activation normalisation of a flow before its first step."""


def learning_rate_at(config: TrainingConfig, step: int, progress: float) -> float:
    """Return the learning rate of a step: that of the settings times a linear warm-up times a cosine decay.

    Args:
        config: Settings of the training.
        step: Number of the step, from 0, for the warm-up.
        progress: Used share of the budget, 0 to 1, for the cosine.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * warmup * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)


LATER = ("augmentation", "whitening", "optimizer", "corrected_directions")
"""Settings that earlier versions did not have."""


def earlier_settings() -> dict[str, object]:
    """Return the values that earlier versions used for settings that they did not have."""
    return {name: TrainingConfig.model_fields[name].default for name in LATER}
