from __future__ import annotations

from typing import NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from snf_worker.broker.connection import broker_url, translate_redis_errors
from snf_worker.jobs.record import TERMINAL, Status
from snf_worker.settings import Settings

START = "0-0"

_CONNECTIONS = 8


class StateChange(NamedTuple):
    id: str
    status: Status
    attempt: int
    worker: str

    @property
    def time_ms(self) -> int:
        """Time of the status change in milliseconds since 1970, by the clock of the Redis server."""
        return int(self.id.partition("-")[0])


class StateChanges(NamedTuple):
    """Status changes of a job, none later than ``clock_ms``, and its status now; None if it does not exist."""

    changes: list[StateChange]
    status: Status | None
    clock_ms: int

    @property
    def over(self) -> bool:
        """Whether no further status change will follow; a failed or cancelled job is over, too."""
        return self.status in TERMINAL


class ChangeReader:
    """Asynchronous reader of the status changes of jobs, on up to 8 connections."""

    def __init__(self, settings: Settings) -> None:
        # Readers share a few connections; a reader that gets none in time reports an outage.
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
        """Return the status and the changes after ``change_id``; raise ``BrokerDown``."""
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
        await self._client.aclose()
