from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import cast

import redis
from pydantic import BaseModel, ConfigDict, Field

from snf_worker.broker.connection import translate_redis_errors
from snf_worker.jobs.record import Queue


class WorkerState(StrEnum):
    """A worker is idle, busy with a job, or does not receive the messages that wait for it."""

    IDLE = "idle"
    BUSY = "busy"
    NOT_RECEIVING = "not-receiving"  # messages wait, but none arrives


class WorkerInfo(BaseModel):
    """Entry of a running worker process in the worker registry."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="Host and process id")
    machine: str | None = Field(default=None, description="Machine or container, None if unknown: see machine_id")
    device: str = Field(description="Device that runs the jobs: cpu or cuda:N")
    queues: tuple[Queue, ...] = Field(description="Queues that the worker serves")
    memory_bytes: int | None = Field(default=None, description="Memory of the machine or container")
    train_memory_bytes: int | None = Field(default=None, description="Largest memory of a training process")
    started_at: datetime
    state: WorkerState = Field(default=WorkerState.IDLE, description="State of the worker")
    job: str | None = Field(default=None, description="Id of the current job")


class WorkerRegistry:
    """Registry of running workers in Redis. An entry expires unless its worker renews it."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._index = f"{prefix}workers"
        self._prefix = f"{prefix}worker:"

    def announce(self, worker: WorkerInfo, life_s: float) -> None:
        with translate_redis_errors():
            pipe = self._client.pipeline()
            pipe.sadd(self._index, worker.name)
            pipe.set(self._prefix + worker.name, worker.model_dump_json(), px=int(life_s * 1000))
            pipe.execute()

    def withdraw(self, name: str) -> None:
        with translate_redis_errors():
            pipe = self._client.pipeline()
            pipe.srem(self._index, name)
            pipe.delete(self._prefix + name)
            pipe.execute()

    def announced(self, name: str) -> bool:
        with translate_redis_errors():
            return bool(self._client.exists(self._prefix + name))

    def require_writable(self) -> None:
        """Raise ``BrokerDown`` if Redis accepts no writes."""
        with translate_redis_errors():
            self._client.set(f"{self._index}:write-check", "", px=1000)

    def served(self) -> frozenset[Queue]:
        return frozenset(queue for worker in self.workers() for queue in worker.queues)

    def workers(self) -> list[WorkerInfo]:
        with translate_redis_errors():
            names = sorted(cast(set[str], self._client.smembers(self._index)))
            if not names:
                return []
            entries = cast(Sequence[str | None], self._client.mget([self._prefix + name for name in names]))
            gone = [name for name, entry in zip(names, entries, strict=True) if entry is None]
            if gone:
                self._client.srem(self._index, *gone)
        return [WorkerInfo.model_validate_json(entry) for entry in entries if entry is not None]
