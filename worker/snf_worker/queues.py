from enum import StrEnum
from typing import Literal

JobType = Literal["train", "score", "calibrate", "evaluate", "limit", "recommend"]
"""Types of jobs; each is also the name of the module in ``snf_worker.attempts`` that runs its attempts."""
ModelJobType = Literal["score", "calibrate", "evaluate", "limit"]
"""Job types that work with a registered model."""
DeviceKind = Literal["auto", "cpu", "cuda"]


class Queue(StrEnum):
    """Queues of jobs for training on the CPU, for training on a GPU, and for work with trained models."""

    TRAIN_CPU = "train-cpu"
    TRAIN_GPU = "train-gpu"
    SCORE = "score"
