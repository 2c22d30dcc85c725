"""Which workers are alive, as they say themselves: one key a worker that vanishes when it is not renewed."""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import cast

import redis
from pydantic import BaseModel, ConfigDict, Field

from worker.broker.connection import outages
from worker.errors import BrokerDown
from worker.jobs.record import Queue
from worker.runtime.machine import memory_of_this_machine
from worker.settings import Settings

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
    train_memory_bytes: int | None = Field(default=None, description="Most memory that a training process gets")
    started_at: datetime
    state: WorkerState = Field(default=WorkerState.IDLE, description="What it does")
    job: str | None = Field(default=None, description="Job in hand")


class Presence:
    """Reads and writes who is there; every method raises `BrokerDown` where Redis does not answer."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._index = f"{prefix}workers"
        self._prefix = f"{prefix}worker:"

    def announce(self, worker: WorkerInfo, life_s: float) -> None:
        """Says that a worker is alive for the next `life_s` seconds."""
        with outages():
            pipe = self._client.pipeline()
            pipe.sadd(self._index, worker.name)
            pipe.set(self._prefix + worker.name, worker.model_dump_json(), px=int(life_s * 1000))
            pipe.execute()

    def withdraw(self, name: str) -> None:
        """Says that a worker is gone."""
        with outages():
            pipe = self._client.pipeline()
            pipe.srem(self._index, name)
            pipe.delete(self._prefix + name)
            pipe.execute()

    def workers(self) -> list[WorkerInfo]:
        """All workers that are alive, by name; forgets those that are not."""
        with outages():
            names = sorted(cast(set[str], self._client.smembers(self._index)))
            if not names:
                return []
            found = cast(Sequence[str | None], self._client.mget([self._prefix + name for name in names]))
            gone = [name for name, text in zip(names, found, strict=True) if text is None]
            if gone:
                self._client.srem(self._index, *gone)
        return [WorkerInfo.model_validate_json(text) for text in found if text is not None]


class Announcer:
    """A thread that keeps one worker announced, and withdraws it at the end."""

    def __init__(
        self,
        presence: Presence,
        settings: Settings,
        *,
        name: str,
        device: str,
        queues: Sequence[Queue],
        job: Callable[[], str | None],
        receiving: Callable[[], bool] = lambda: True,
    ) -> None:
        self._presence = presence
        self._settings = settings
        self._info = WorkerInfo(
            name=name,
            device=device,
            queues=tuple(queues),
            memory_bytes=memory_of_this_machine(),
            train_memory_bytes=settings.train_memory_bytes,
            started_at=datetime.now(UTC),
        )
        self._job = job
        self._receiving = receiving
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="announcer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and withdraws the worker."""
        self._stop.set()
        self._thread.join(timeout=10)
        try:
            self._presence.withdraw(self._info.name)
        except BrokerDown:
            log.info("could not sign off; the entry of this worker ends by itself")

    def _now(self) -> dict[str, object]:
        job = self._job()
        if job is None and not self._receiving():
            return {"job": None, "state": WorkerState.NOT_RECEIVING}
        return {"job": job, "state": WorkerState.IDLE if job is None else WorkerState.BUSY}

    def _loop(self) -> None:
        while not self._stop.is_set():
            info = self._info.model_copy(update=self._now())
            try:
                self._presence.announce(info, self._settings.lease_seconds)
            except BrokerDown:
                # Said by others already, and the next round tells.
                log.debug("the broker is down; this worker is not announced")
            self._stop.wait(self._settings.heartbeat_seconds)
