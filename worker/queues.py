"""Job types, device kinds, and the queues that workers serve."""

from enum import StrEnum
from typing import Literal

JobType = Literal["train", "score", "calibrate", "evaluate"]
DeviceKind = Literal["auto", "cpu", "cuda"]


class Queue(StrEnum):
    """Names of the Celery queues: one for each kind of work and device."""

    TRAIN_CPU = "train-cpu"
    TRAIN_GPU = "train-gpu"
    SCORE = "score"
