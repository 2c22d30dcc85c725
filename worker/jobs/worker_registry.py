"""Which workers are alive, as they say themselves: one key a worker that vanishes when it is not renewed."""

import logging
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import cast

import redis
from pydantic import BaseModel, ConfigDict, Field

from worker.broker.connection import translate_redis_errors
from worker.queues import Queue

log = logging.getLogger(__name__)


class WorkerState(StrEnum):
    """What a worker does."""

    IDLE = "idle"
    BUSY = "busy"
    NOT_RECEIVING = "not-receiving"  # messages wait for it that it does not get


class WorkerInfo(BaseModel):
    """What a worker says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="Host and process id")
    device: str = Field(description="Device it runs jobs on: cpu or cuda:N")
    queues: tuple[Queue, ...] = Field(description="Queues it serves")
    memory_bytes: int | None = Field(default=None, description="Memory of its machine or container")
    train_memory_bytes: int | None = Field(default=None, description="Most memory that each training process gets")
    train_processes: int = Field(default=1, description="Processes that share a training")
    started_at: datetime
    state: WorkerState = Field(default=WorkerState.IDLE, description="What it does")
    job: str | None = Field(default=None, description="Job in hand")


class WorkerRegistry:
    """Reads and writes who is there; every method raises `BrokerDown` where Redis does not answer."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._index = f"{prefix}workers"
        self._prefix = f"{prefix}worker:"

    def announce(self, worker: WorkerInfo, life_s: float) -> None:
        """Says that a worker is alive for the next `life_s` seconds."""
        with translate_redis_errors():
            pipe = self._client.pipeline()
            pipe.sadd(self._index, worker.name)
            pipe.set(self._prefix + worker.name, worker.model_dump_json(), px=int(life_s * 1000))
            pipe.execute()

    def withdraw(self, name: str) -> None:
        """Says that a worker is gone."""
        with translate_redis_errors():
            pipe = self._client.pipeline()
            pipe.srem(self._index, name)
            pipe.delete(self._prefix + name)
            pipe.execute()

    def workers(self) -> list[WorkerInfo]:
        """All workers that are alive, by name; forgets those that are not."""
        with translate_redis_errors():
            names = sorted(cast(set[str], self._client.smembers(self._index)))
            if not names:
                return []
            found = cast(Sequence[str | None], self._client.mget([self._prefix + name for name in names]))
            gone = [name for name, text in zip(names, found, strict=True) if text is None]
            if gone:
                self._client.srem(self._index, *gone)
        return [WorkerInfo.model_validate_json(text) for text in found if text is not None]
