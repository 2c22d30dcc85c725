"""Registry of running workers, and what the latest trainings took, by which the next ones are estimated."""

from __future__ import annotations

import hashlib
import resource
import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import redis
from pydantic import BaseModel, ConfigDict

from snf_worker.jobs.record import Queue

if TYPE_CHECKING:
    from snf_client.schemas.training import TrainingConfig
    from snf_models.flows.architecture import Architecture


class WorkerState(StrEnum):
    """A worker is idle, busy with a job, or does not receive the messages that wait for it."""

    IDLE = "idle"
    BUSY = "busy"
    NOT_RECEIVING = "not-receiving"  # messages wait, but none arrives


class WorkerInfo(BaseModel):
    """Entry of a running worker process in the worker registry."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str  # host and process id
    machine: str | None = None  # machine or container, None if unknown: see machine_id
    device: str  # that runs the jobs: cpu or cuda:N
    queues: tuple[Queue, ...]  # that the worker serves
    memory_bytes: int | None = None  # of the machine or container
    train_memory_bytes: int | None = None  # largest memory of a training process
    started_at: datetime
    state: WorkerState = WorkerState.IDLE
    job: str | None = None  # id of the current job


class WorkerRegistry:
    """Registry of running workers in Redis. An entry expires unless its worker renews it."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._index = f"{prefix}workers"
        self._prefix = f"{prefix}worker:"

    def announce(self, worker: WorkerInfo, life_s: float) -> None:
        pipe = self._client.pipeline()
        pipe.sadd(self._index, worker.name)
        pipe.set(self._prefix + worker.name, worker.model_dump_json(), px=int(life_s * 1000))
        pipe.execute()

    def withdraw(self, name: str) -> None:
        pipe = self._client.pipeline()
        pipe.srem(self._index, name)
        pipe.delete(self._prefix + name)
        pipe.execute()

    def served(self) -> frozenset[Queue]:
        return frozenset(queue for worker in self.workers() for queue in worker.queues)

    def workers(self) -> list[WorkerInfo]:
        names = sorted(self._client.smembers(self._index))
        if not names:
            return []
        entries = self._client.mget([self._prefix + name for name in names])
        gone = [name for name, entry in zip(names, entries, strict=True) if entry is None]
        if gone:
            self._client.srem(self._index, *gone)
        return [WorkerInfo.model_validate_json(entry) for entry in entries if entry is not None]


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
