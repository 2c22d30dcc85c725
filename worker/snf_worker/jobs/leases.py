"""Leases on jobs: a worker takes the lease of a job, renews it, and returns it with the result."""

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import redis

from snf_worker.broker.connection import translate_redis_errors
from snf_worker.errors import BrokerDown, StaleAttempt
from snf_worker.jobs import lua_scripts as lua
from snf_worker.jobs.record import TERMINAL, Queue, RequestedAction, Status, to_hash

log = logging.getLogger(__name__)


class LeaseStore:
    """Exclusive, expiring rights of workers to run jobs; only the newest attempt of a job may change its record."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._scripts: dict[str, Any] = {}

    def take(self, job_id: str, worker: str, lease_s: float, delivery: str | None = None) -> int | None:
        """Take a queued job; return the attempt number, the same for the same ``delivery`` until renewed, or None."""
        token = delivery or secrets.token_hex(8)
        attempt = int(self._run(lua.TAKE, job_id, worker, int(lease_s * 1000), utc_now_iso(), token))
        return attempt or None

    def renew(
        self, job_id: str, attempt: int, lease_s: float, changes: Mapping[str, Any] | None = None
    ) -> RequestedAction:
        """Extend a lease, write ``changes``, and return what users requested; raise ``StaleAttempt``."""
        pairs = [part for pair in to_hash(changes or {}).items() for part in pair]
        verdict = self._run(lua.RENEW, job_id, attempt, int(lease_s * 1000), *pairs)
        if verdict == "stale":
            raise StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")
        return RequestedAction(verdict)

    def holds(self, job_id: str, attempt: int) -> bool:
        """Return whether the job is starting or running and no newer attempt has begun."""
        with translate_redis_errors():
            status, newest = cast(
                Sequence[str | None], self._client.hmget(self._key(f"job:{job_id}"), ["status", "attempts"])
            )
        return status in ("starting", "running") and newest == str(attempt)

    def running(self, job_id: str, attempt: int) -> None:
        """Change a job's status from starting to running; raise ``StaleAttempt`` if the lease is lost."""
        self._leave(job_id, attempt, Status.RUNNING, {})

    def finish(self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any]) -> None:
        """End the lease with a terminal status; may be repeated after a lost answer; raise ``StaleAttempt``."""
        if status not in TERMINAL:
            raise ValueError(f"expected a terminal status, got {status}")
        self._leave(job_id, attempt, status, changes)

    def put_back(self, job_id: str, attempt: int, changes: Mapping[str, Any]) -> Status:
        """Queue an unfinished job again, ahead of jobs that have not run; may be repeated; raise ``StaleAttempt``."""
        return self._leave(job_id, attempt, Status.QUEUED, changes, first=True)

    def expire(self, job_id: str, max_attempts: int) -> str:
        """End an expired lease; return the new status, failed after ``max_attempts`` without progress, or ``kept``."""
        return str(self._run(lua.EXPIRE, job_id, utc_now_iso(), max_attempts))

    def expired_leases(self, limit: int = 500) -> list[str]:
        now = self.clock_ms()
        with translate_redis_errors():
            return cast(list[str], self._client.zrangebyscore(self._key("leases"), "-inf", now, start=0, num=limit))

    @contextmanager
    def lock(self, name: str, life_s: float) -> Iterator[bool]:
        """Yield whether a lock shared by all workers was taken, for ``life_s`` seconds at most."""
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
        left = self._run(lua.LEAVE, job_id, attempt, status.value, place, utc_now_iso(), digest, *pairs)
        if not left:
            raise StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")
        return Status(left)

    def clock_ms(self) -> int:
        """Return the time of the Redis server's clock, in milliseconds since 1970."""
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000

    def cap_times(self) -> int:
        """Correct times that lie in the future since the Redis server's clock was set back; return their number."""
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


def utc_now_iso() -> str:
    return datetime.now(UTC).isoformat()
