"""Leases on jobs: a worker takes the lease of a job, renews it, and returns it with the result."""

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import redis

from worker.broker.connection import translate_redis_errors
from worker.errors import BrokerDown, StaleAttempt
from worker.jobs import lua_scripts as lua
from worker.jobs.record import TERMINAL, RequestedAction, Status, to_hash
from worker.queues import Queue

log = logging.getLogger(__name__)


class LeaseStore:
    """Store in Redis that records which worker may run each job, and until when.

    A lease gives one worker the exclusive right to run a job. It expires unless the worker renews it.

    An attempt number is a fencing token: only the newest attempt of a job may change its record. Every method raises
    ``BrokerDown`` when Redis does not answer in time.

    Args:
        client: Redis client that returns texts.
        prefix: Prefix of all keys.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._scripts: dict[str, Any] = {}

    def take(self, job_id: str, worker: str, lease_s: float, delivery: str | None = None) -> int | None:
        """Give a worker the lease (exclusive right) to run a queued job; return the attempt number or None.

        Repeating the call with the same ``delivery`` returns the same attempt until the lease is renewed for the first
        time. The first renewal confirms the attempt. An attempt that was never confirmed does not count when its lease
        expires.

        Args:
            job_id: Id of the job.
            worker: Name of the worker.
            lease_s: Length of the lease in seconds.
            delivery: Random text that identifies the delivery of the message.

        Returns:
            Number of the attempt, the fencing token, or None if the job cannot be taken.
        """
        token = delivery or secrets.token_hex(8)
        attempt = int(self._run(lua.TAKE, job_id, worker, int(lease_s * 1000), now_text(), token))
        return attempt or None

    def renew(
        self, job_id: str, attempt: int, lease_s: float, changes: Mapping[str, Any] | None = None
    ) -> RequestedAction:
        """Extend a worker's lease on a job, and return whether users asked to go on, pause or cancel.

        A lease is the exclusive right to run the job.

        The lease then ends ``lease_s`` seconds from now.

        ``changes`` are written to the job record.

        Returns:
            The action that users requested of the job.

        Raises:
            StaleAttempt: The attempt does not hold the lease.
        """
        pairs = [part for pair in to_hash(changes or {}).items() for part in pair]
        verdict = self._run(lua.RENEW, job_id, attempt, int(lease_s * 1000), *pairs)
        if verdict == "stale":
            raise StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")
        return RequestedAction(verdict)

    def holds(self, job_id: str, attempt: int) -> bool:
        """Return whether an attempt (execution) of a job may still write the results of the job.

        It may while the job is starting or running and no newer attempt has begun.
        """
        with translate_redis_errors():
            status, newest = cast(
                Sequence[str | None], self._client.hmget(self._key(f"job:{job_id}"), ["status", "attempts"])
            )
        return status in ("starting", "running") and newest == str(attempt)

    def running(self, job_id: str, attempt: int) -> None:
        """Change a job's status from starting to running, unless the attempt has lost its lease on the job.

        Raises:
            StaleAttempt: The attempt does not hold the lease.
        """
        self._leave(job_id, attempt, Status.RUNNING, {})

    def finish(self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any]) -> None:
        """Set the final status of a job, and end the worker's lease on the job.

        The result or the error of the job is stored from ``changes``.
        The same call may be repeated, after a lost answer.

        Raises:
            StaleAttempt: The attempt does not hold the lease.
            ValueError: The status is not terminal.
        """
        if status not in TERMINAL:
            raise ValueError(f"expected a terminal status, got {status}")
        self._leave(job_id, attempt, status, changes)

    def put_back(self, job_id: str, attempt: int, changes: Mapping[str, Any]) -> Status:
        """End a worker's lease (exclusive right) on an unfinished job, and queue the job again.

        The job waits in the first line of its queue, behind other interrupted or resumed jobs and before all others.
        The same call may be repeated, after a lost answer, until the job is taken again.

        Returns:
            The new status: ``queued``, or ``cancelled`` or ``paused`` if users requested that.

        Raises:
            StaleAttempt: The attempt does not hold the lease.
        """
        return self._leave(job_id, attempt, Status.QUEUED, changes, first=True)

    def expire(self, job_id: str, max_attempts: int) -> str:
        """Take a job from a worker whose lease (exclusive right) has expired, and change the job's status.

        The job is then queued, paused, cancelled or failed.

        A confirmed attempt without a new checkpoint counts as one without progress. The job fails after
        ``max_attempts`` of them in a row.

        Returns:
            The new status, or ``kept`` if the lease has not expired after all.
        """
        return str(self._run(lua.EXPIRE, job_id, now_text(), max_attempts))

    def expired_leases(self, limit: int = 500) -> list[str]:
        """Return the ids of at most ``limit`` jobs whose worker did not renew its lease in time."""
        now = self.clock_ms()
        with translate_redis_errors():
            return cast(list[str], self._client.zrangebyscore(self._key("leases"), "-inf", now, start=0, num=limit))

    @contextmanager
    def lock(self, name: str, life_s: float) -> Iterator[bool]:
        """Context manager that tries to take a named lock shared by all workers, and yields True on success.

        The lock ends after ``life_s`` seconds at most. Yields False if the lock is taken already.
        """
        key, token = self._key(f"lock:{name}"), secrets.token_hex(8)
        with translate_redis_errors():
            got = bool(self._client.set(key, token, nx=True, px=int(life_s * 1000)))
        try:
            yield got
        finally:
            if got:
                try:
                    self._call(lua.UNLOCK, key, token)
                except BrokerDown:
                    log.warning("could not release the lock %s; it expires by itself in %.0f s", name, life_s)

    def _leave(
        self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any], first: bool = False
    ) -> Status:
        pairs = [part for pair in to_hash(changes).items() for part in pair]
        place = "1" if first else "0"
        digest = hashlib.sha256(repr((attempt, status.value, place, pairs)).encode()).hexdigest()
        left = self._run(lua.LEAVE, job_id, attempt, status.value, place, now_text(), digest, *pairs)
        if not left:
            raise StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")
        return Status(left)

    def clock_ms(self) -> int:
        """Return the time of the Redis server's clock, in milliseconds since 1970."""
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000

    def cap_times(self) -> int:
        """Correct times stored in Redis, such as the ends of leases, that lie too far in the future.

        They do if the clock of the Redis server was set back. Returns the number of corrected times.

        Without it a lease would end, and a lost message be detected, only when the clock gets there.
        """
        lines = [line for queue in Queue for line in (queue.value, f"first:{queue.value}")]
        return int(self._call(lua.CAP_TIMES, self._prefix, *lines))

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _run(self, script: str, job_id: str, *args: Any) -> Any:
        return self._call(script, self._prefix, job_id, *args)

    def _call(self, script: str, *args: Any) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        with translate_redis_errors():
            return self._scripts[script](args=args)


def now_text() -> str:
    """Return the current UTC time as ISO 8601 text, such as ``2026-01-31T12:00:00.123456+00:00``."""
    return datetime.now(UTC).isoformat()
