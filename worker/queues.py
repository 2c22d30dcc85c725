from enum import StrEnum
from typing import Literal

JobType = Literal["train", "score", "calibrate", "evaluate", "limit", "recommend"]
ModelJobType = Literal["score", "calibrate", "evaluate", "limit"]
"""Job types that work with a registered model."""
ATTEMPT_MODULES: dict[JobType, str] = {
    "train": "worker.attempts.train",
    "score": "worker.attempts.score",
    "calibrate": "worker.attempts.calibrate",
    "evaluate": "worker.attempts.evaluate",
    "limit": "worker.attempts.limit",
    "recommend": "worker.attempts.recommend",
}
DeviceKind = Literal["auto", "cpu", "cuda"]


class Queue(StrEnum):
    """Queues of jobs for training on the CPU, for training on a GPU, and for work with trained models."""

    TRAIN_CPU = "train-cpu"
    TRAIN_GPU = "train-gpu"
    SCORE = "score"
