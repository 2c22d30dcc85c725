"""Short trainings of real digits, to interrupt, damage or let diverge."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from models.datasets import Dataset
from models.scoring.options import EngineOptions
from models.training.config import TrainingConfig
from models.training.interrupted import Interrupted
from models.training.loop import Trainer
from models.training.presets import PRESETS
from tests.models.helpers import QUICK, real_images

Events = list[dict[str, Any]]
TORCH = EngineOptions("torch", threads=1)
"""An engine that compiles nothing, for trainings whose scores are not what a test is about."""


@lru_cache
def small_digits() -> Dataset:
    """Real digits, 16x16."""
    images = real_images(300, 16)
    return Dataset("digits-16", images[:260], images[260:], images[260:], images[260:], "digest")


def trainer_in(folder: Path, config: TrainingConfig = QUICK) -> tuple[Trainer, Events]:
    events: Events = []
    dataset = small_digits()
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    return Trainer(dataset, architecture, config, folder, events.append), events


def run(folder: Path, config: TrainingConfig = QUICK, stop_at: int | None = None) -> tuple[Trainer, Events]:
    """Train in ``folder``, interrupted after ``stop_at`` steps where that is given."""
    trainer, events = trainer_in(folder, config)
    if stop_at is None:
        trainer.run(lambda: False)
    else:
        with pytest.raises(Interrupted, match=f"after step {stop_at}"):
            trainer.run(lambda: trainer.state.step >= stop_at)
    return trainer, events
