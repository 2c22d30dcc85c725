"""Waiting jobs. Each queue has two lines; interrupted and resumed jobs wait in the first, which is served first."""

from collections.abc import Sequence
from typing import cast

import redis

from snf_worker.broker.connection import translate_redis_errors
from snf_worker.jobs import lua_scripts as lua
from snf_worker.jobs.record import Job, Queue


class WaitingLines:
    """Lists of the jobs that wait in each queue, in the order in which workers take them."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._note_dispatch = client.register_script(lua.REDISPATCH)

    def length(self, queue: Queue) -> int:
        with translate_redis_errors():
            return sum(self._client.zcard(self._line(queue, first)) for first in (True, False))

    def position(self, job: Job) -> int | None:
        """Return the number of jobs ahead of the given job in its queue; None if it does not wait."""
        first, others = self._line(job.queue, True), self._line(job.queue, False)
        with translate_redis_errors():
            pipe = self._client.pipeline()
            pipe.zrank(first, job.id)
            pipe.zrank(others, job.id)
            pipe.zcard(first)
            position_in_first, position_in_others, overtaking = pipe.execute()
        if position_in_first is not None:
            return int(position_in_first)
        return None if position_in_others is None else int(overtaking + position_in_others)

    def lost_messages(
        self, queue: Queue, age_s: float, *, first: bool, line_is_empty: bool, limit: int = 500
    ) -> list[str]:
        """Return the ids of jobs whose message was lost: the line is empty, or later jobs were taken."""
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
            newest = float(seconds * 1000 + microseconds // 1000) - age_s * 1000
            if not line_is_empty:
                taken = float(cast(str | None, self._client.get(self._line(queue, first, "taken"))) or 0)
                newest = min(newest, taken - 1)
            ids = self._client.zrangebyscore(self._line(queue, first), "-inf", newest, start=0, num=limit)
            return cast(list[str], ids)

    def note_dispatch(self, job_id: str) -> bool:
        """Move a queued job to the first line before its message is sent again; return False if not queued."""
        with translate_redis_errors():
            return bool(self._note_dispatch(args=[self._prefix, job_id]))

    def message_count(self, keys: Sequence[str]) -> int:
        """Return how many messages wait in the Redis lists ``keys``, which are those of ``queue_keys``."""
        with translate_redis_errors():
            return sum(self._client.llen(key) for key in keys)

    def _line(self, queue: Queue, first: bool, name: str = "waiting") -> str:
        return f"{self._prefix}{name}:first:{queue}" if first else f"{self._prefix}{name}:{queue}"
