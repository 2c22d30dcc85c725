"""The states that a job went through, read from its stream in the job store without blocking."""

from __future__ import annotations

from typing import NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from worker.broker.connection import broker_url, translate_redis_errors
from worker.jobs.record import TERMINAL, Status
from worker.settings import Settings

START = "0-0"
"""The id before every change."""

_CONNECTIONS = 8


class StateChange(NamedTuple):
    """One change of a job's state; its id begins with the milliseconds of the broker's clock."""

    id: str
    status: Status
    attempt: int
    worker: str

    @property
    def time_ms(self) -> int:
        """When it happened, by the broker's clock."""
        return int(self.id.partition("-")[0])


class StateChanges(NamedTuple):
    """The changes after one, with the status and the broker's clock at the same moment: no later one is older."""

    changes: list[StateChange]
    status: Status | None  # None where there is no such job (any more)
    clock_ms: int

    @property
    def over(self) -> bool:
        """Whether no change will follow."""
        return self.status in TERMINAL


class ChangeReader:
    """Reads changes of state; one client for all readers of a process."""

    def __init__(self, settings: Settings) -> None:
        # Readers share a few connections, and one that gets none in time sees an outage.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            broker_url(settings),
            max_connections=_CONNECTIONS,
            timeout=settings.broker_timeout_s,
            decode_responses=True,
            socket_timeout=settings.broker_timeout_s,
            socket_connect_timeout=settings.broker_timeout_s,
            health_check_interval=25,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.05), 1),
        )
        self._client = redis.asyncio.Redis.from_pool(pool)
        self._prefix = settings.key_prefix

    async def after(self, job_id: str, change_id: str = START) -> StateChanges:
        """What happened to a job after a change; raises `BrokerDown`. A job that is forgotten has no changes."""
        with translate_redis_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.xrange(f"{self._prefix}changes:{job_id}", min=f"({change_id}")
                pipe.hget(f"{self._prefix}job:{job_id}", "status")
                pipe.time()
                entries, status, (seconds, microseconds) = await pipe.execute()
        return StateChanges(
            [StateChange(key, Status(it["status"]), int(it["attempt"]), it["worker"]) for key, it in entries],
            Status(status) if status is not None else None,
            seconds * 1000 + microseconds // 1000,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()
