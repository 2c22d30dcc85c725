"""Short trainings of real digits, to interrupt, damage or let diverge."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import Dataset
from snf_models.errors import Interrupted
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS
from snf_models.pipeline.run import train
from snf_models.scoring import EngineOptions
from tests.models.helpers import QUICK, real_images

Events = list[dict[str, Any]]
TORCH = EngineOptions("torch", threads=1)
"""An engine that compiles nothing, for trainings whose scores are not what a test is about."""


@lru_cache
def small_digits(side: int = 8) -> Dataset:
    """Real digits, of sides for which flows have one level; they have two for a side of 16."""
    images = real_images(340, side)
    return Dataset(f"digits-{side}", images[:260], images[260:300], images[300:], images[300:], "digest")


def trainer_in(folder: Path, config: TrainingConfig = QUICK, side: int = 8) -> tuple[Trainer, Events]:
    events: Events = []
    dataset = small_digits(side)
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


def train_whole(dataset: Dataset, recipe: Any, config: TrainingConfig, folder: Path, **more: Any) -> Path:
    """Train without an interruption, by an engine that compiles nothing unless one is given; return the artifact."""
    given: dict[str, Any] = {"observe": lambda _event: None, "engine": TORCH, **more}
    return train(dataset, recipe, config, folder, should_stop=lambda: False, **given)


def report_every(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """Let trainings report so often, or after each step."""
    patch.setattr("snf_models.training.divergence.REPORT_SECONDS", seconds)
    patch.setattr("snf_models.training.divergence.REPORT_SHARE", 1e9)
