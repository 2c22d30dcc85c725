"""What the latest trainings took, by which the next ones are estimated."""

from __future__ import annotations

import hashlib
import resource
import sys
from typing import TYPE_CHECKING, Any

import redis
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from snf_client.schemas.training import TrainingConfig
    from snf_models.flows.architecture import Architecture

_KEPT_S = 90 * 86_400
_OTHER_SETTINGS = {"max_steps", "max_minutes", "seed", "learning_rate", "final_learning_rate", "warmup_steps"}
"""Settings in which trainings of one kind may differ, as neither memory nor the time of a step depends on them."""


class MeasuredTraining(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    step_seconds: float  # with validations; 0 for a fit in closed form
    image_seconds: float  # all else, by the image of the dataset
    images: int
    memory_bytes: int  # peak of the process

    def seconds(self, steps: int, images: int) -> float:
        """Return the expected seconds of a training with so many steps and images."""
        return steps * self.step_seconds + images * self.image_seconds


class MeasuredTrainings:
    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._prefix = f"{prefix}trained:"

    def latest(self, kind: str) -> MeasuredTraining | None:
        stored = self._client.get(self._prefix + kind)
        return None if stored is None else MeasuredTraining.model_validate_json(stored)

    def store(self, kind: str, measured: MeasuredTraining) -> None:
        self._client.set(self._prefix + kind, measured.model_dump_json(), ex=_KEPT_S)


def kind_of_training(architecture: Architecture, config: TrainingConfig, device: str) -> str:
    """Return a digest that trainings share if their steps take the same time and memory on one machine."""
    settings = config.model_dump_json(exclude=_OTHER_SETTINGS)
    return hashlib.sha256(f"{device} {architecture.model_dump_json()} {settings}".encode()).hexdigest()


def peak_memory_bytes() -> int:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
