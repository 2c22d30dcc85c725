"""Status changes of jobs, read asynchronously from a Redis stream."""

from __future__ import annotations

from typing import NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from worker.broker.connection import broker_url, translate_redis_errors
from worker.jobs.record import TERMINAL, Status
from worker.settings import Settings

START = "0-0"
"""Id before every state change."""

_CONNECTIONS = 8


class StateChange(NamedTuple):
    """One status change of a background job, such as its start or its end.

    It has the new status, the attempt number, the worker's name and the id in Redis.
    """

    id: str
    status: Status
    attempt: int
    worker: str

    @property
    def time_ms(self) -> int:
        """Time of the status change in milliseconds since 1970, by the clock of the Redis server."""
        return int(self.id.partition("-")[0])


class StateChanges(NamedTuple):
    """Status changes of a job since a given earlier change, and the status that the job has now.

    ``clock_ms`` is the time at which Redis was read.

    No later change has an earlier time than ``clock_ms``. ``status`` is None if the job does not exist.
    """

    changes: list[StateChange]
    status: Status | None
    clock_ms: int

    @property
    def over(self) -> bool:
        """Whether the job has ended, so that no further status change will follow.

        A failed or cancelled job has ended, too.
        """
        return self.status in TERMINAL


class ChangeReader:
    """Asynchronous reader of the status changes of jobs in Redis.

    All requests share up to 8 connections.
    """

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
        """Return a job's current status and its status changes after a given change.

        ``change_id`` is the id of the given change. By default all changes are returned.

        A removed job has none.

        Raises:
            BrokerDown: Redis does not answer in time.
        """
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
        """Close the connections to Redis."""
        await self._client.aclose()
