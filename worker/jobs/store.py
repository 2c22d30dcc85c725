"""The job store: records in Redis, changed by compare-and-set only."""

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import redis

from worker.broker.connection import translate_redis_errors
from worker.errors import BrokerDown, IdempotencyConflict, JobConflict, JobNotFound, StaleAttempt
from worker.jobs import lua_scripts as lua
from worker.jobs.record import TERMINAL, Job, JobPage, RequestedAction, Status, from_hash, to_hash
from worker.jobs.shards import Shards
from worker.jobs.waiting_lines import WaitingLines
from worker.queues import JobType

log = logging.getLogger(__name__)

# `JobStore.list` hides the builtin inside the class.
Ids = list[str]


class JobStore:
    """Reads and changes job records; every method raises `BrokerDown` where Redis does not answer in time."""

    def __init__(self, client: redis.Redis, prefix: str = "snf:", idempotency_s: float = 86400.0) -> None:
        self._client = client
        self._prefix = prefix
        self._idempotency_ms = int(idempotency_s * 1000)
        self._scripts: dict[str, Any] = {}
        self.lines = WaitingLines(client, prefix)

    def ping(self) -> None:
        """Asks Redis for a sign of life."""
        with translate_redis_errors():
            self._client.ping()

    def create(self, job: Job, idempotency_key: str | None = None, fingerprint: str = "") -> tuple[Job, bool]:
        """Writes a new queued job; answers it and whether it is new.

        The same `idempotency_key` with the same `fingerprint` of the request answers the job made first;
        raises `IdempotencyConflict` where the fingerprint is another.
        """
        fields = to_hash(job.model_dump(mode="json", exclude={"status"}))
        pairs = [part for pair in fields.items() for part in pair]
        key = idempotency_key or ""
        verdict, job_id = self._run(lua.CREATE, job.id, key, self._idempotency_ms, fingerprint, job.type, *pairs)
        if verdict == "conflict":
            raise _reused(job_id)
        return self.get(job_id), verdict == "created"

    def known(self, idempotency_key: str, fingerprint: str) -> Job | None:
        """The job that this key made, None for a new key; raises `IdempotencyConflict`."""
        with translate_redis_errors():
            key = self._key(f"idempotency:{idempotency_key}")
            job_id, stored = cast(Sequence[str | None], self._client.hmget(key, ["id", "fingerprint"]))
        if job_id is None:
            return None
        if stored != fingerprint:
            raise _reused(job_id)
        try:
            return self.get(job_id)
        except JobNotFound:
            return None

    def get(self, job_id: str) -> Job:
        """The record of a job; raises `JobNotFound`."""
        with translate_redis_errors():
            fields = cast(dict[str, str], self._client.hgetall(self._key(f"job:{job_id}")))
        if not fields:
            raise JobNotFound(f"no job has the id {job_id}")
        return from_hash(fields)

    def list(
        self,
        after: str | None = None,
        limit: int = 50,
        status: Status | None = None,
        type: JobType | None = None,
    ) -> JobPage:
        """A page of at most `limit` jobs, newest first, that were created before the job `after`."""
        index = "jobs"
        if status is not None:
            index = f"jobs:status:{status.value}"
        elif type is not None:
            index = f"jobs:type:{type}"
        found: list[Job] = []
        cursor = after
        while len(found) <= limit:
            wanted = limit + 1 - len(found)
            with translate_redis_errors():
                ids = cast(
                    Ids,
                    self._client.zrange(
                        self._key(index),
                        f"({cursor}" if cursor else "+",
                        "-",
                        desc=True,
                        bylex=True,
                        offset=0,
                        num=wanted,
                    ),
                )
                pipe = self._client.pipeline(transaction=False)
                for job_id in ids:
                    pipe.hgetall(self._key(f"job:{job_id}"))
                records = cast(Sequence[dict[str, str]], pipe.execute())
            jobs = [from_hash(record) for record in records if record]
            # A job may have moved on since its index was read, and one index serves two filters.
            found += [j for j in jobs if status in (None, j.status) and type in (None, j.type)]
            if len(ids) < wanted:
                break
            cursor = ids[-1]
        more = len(found) > limit
        return JobPage(jobs=found[:limit], next=found[limit - 1].id if more else None)

    def count(self, status: Status) -> int:
        """How many jobs have this status."""
        with translate_redis_errors():
            return self._client.zcard(self._key(f"jobs:status:{status.value}"))

    def request_cancel(self, job_id: str) -> Job:
        """Cancels a queued job at once, asks a running one to stop; raises `JobNotFound`, `JobConflict`."""
        self._refuse(job_id, self._run(lua.CANCEL, job_id, _now()), *TERMINAL)
        return self.get(job_id)

    def request_pause(self, job_id: str) -> Job:
        """Pauses a queued job at once, asks a running one to stop; raises `JobNotFound`, `JobConflict`."""
        verdict = self._run(lua.PAUSE, job_id)
        self._refuse(job_id, verdict, *TERMINAL, "cancelling")
        return self.get(job_id)

    def request_resume(self, job_id: str) -> tuple[Job, bool]:
        """Queues a paused job first in line, or takes back a pause that is not done yet.

        Answers the record and whether the job needs a message now; raises `JobNotFound`, `JobConflict` where the
        job was not paused.
        """
        verdict = self._run(lua.RESUME, job_id)
        self._refuse(job_id, verdict, *TERMINAL, "waiting", Status.STARTING, Status.RUNNING)
        return self.get(job_id), verdict == "queued"

    def _refuse(self, job_id: str, verdict: str, *conflicts: str) -> None:
        if verdict == "missing":
            raise JobNotFound(f"no job has the id {job_id}")
        if verdict in conflicts:
            state = {"cancelling": "being cancelled", "waiting": "queued"}.get(verdict, verdict)
            raise JobConflict(f"job {job_id} is {state}")

    def take(self, job_id: str, worker: str, lease_s: float, delivery: str | None = None) -> int | None:
        """Take the lease of a queued job; return the attempt (fencing token), None where it is not to be had.

        The same random text for `delivery` returns the same attempt, until it renews the lease for the first time:
        that confirms that it was taken. An attempt that was never confirmed does not count where its lease runs out.
        """
        token = delivery or secrets.token_hex(8)
        attempt = int(self._run(lua.TAKE, job_id, worker, int(lease_s * 1000), _now(), token))
        return attempt or None

    def renew(
        self, job_id: str, attempt: int, lease_s: float, changes: Mapping[str, Any] | None = None
    ) -> RequestedAction:
        """Renews the lease and writes `changes`; answers what the users ask of the job meanwhile.

        Raises `StaleAttempt` where the lease belongs to another attempt or to nobody.
        """
        pairs = [part for pair in to_hash(changes or {}).items() for part in pair]
        verdict = self._run(lua.RENEW, job_id, attempt, int(lease_s * 1000), *pairs)
        if verdict == "stale":
            raise StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")
        return RequestedAction(verdict)

    def holds(self, job_id: str, attempt: int) -> bool:
        """Whether this attempt is the one that may write checkpoints and publish."""
        with translate_redis_errors():
            status, newest = cast(
                Sequence[str | None], self._client.hmget(self._key(f"job:{job_id}"), ["status", "attempts"])
            )
        return status in ("starting", "running") and newest == str(attempt)

    def running(self, job_id: str, attempt: int) -> None:
        """Moves a starting job to running; raises `StaleAttempt`."""
        self._leave(job_id, attempt, Status.RUNNING, {})

    def finish(self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any]) -> None:
        """Ends a job for good with its result or error; raises `StaleAttempt`."""
        if status not in TERMINAL:
            raise ValueError(f"expected a terminal status, got {status}")
        self._leave(job_id, attempt, status, changes)

    def put_back(self, job_id: str, attempt: int, changes: Mapping[str, Any]) -> Status:
        """Gives the lease up and queues the job again, first in line; raises `StaleAttempt`.

        Answers `cancelled` or `paused` instead of `queued` where that was asked for meanwhile.
        """
        return self._leave(job_id, attempt, Status.QUEUED, changes, first=True)

    def expire(self, job_id: str, max_attempts: int) -> str:
        """End a lease that ran out and return the new status, or `kept` where the lease is alive after all.

        An attempt that was confirmed and brought no new checkpoint counts; the job fails at `max_attempts` of them in
        a row.
        """
        return str(self._run(lua.EXPIRE, job_id, _now(), max_attempts))

    def expired_leases(self, limit: int = 500) -> Ids:
        """Ids of jobs whose lease ran out."""
        with translate_redis_errors():
            return cast(
                Ids,
                self._client.zrangebyscore(self._key("leases"), "-inf", self._clock_ms(), start=0, num=limit),
            )

    def finished_before(self, age_s: float, limit: int) -> Ids:
        """Ids of jobs that ended longer than `age_s` seconds ago, the oldest first."""
        with translate_redis_errors():
            latest = float(self._clock_ms()) - age_s * 1000
            return cast(Ids, self._client.zrangebyscore(self._key("finished"), "-inf", latest, start=0, num=limit))

    def forget(self, job_id: str) -> None:
        """Removes the record of a job that is over; one that is not stays."""
        self._run(lua.FORGET, job_id)

    def shards(self, job_id: str) -> Shards:
        """The shards of a bulk job that are still to do."""
        return Shards(self._client, self._prefix, job_id)

    @contextmanager
    def lock(self, name: str, life_s: float) -> Iterator[bool]:
        """Holds a lock over all workers for at most `life_s`; gives False where another one has it."""
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
                    log.warning("could not release the lock %s; it ends by itself in %.0f s", name, life_s)

    def _leave(
        self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any], first: bool = False
    ) -> Status:
        pairs = [part for pair in to_hash(changes).items() for part in pair]
        left = self._run(lua.LEAVE, job_id, attempt, status.value, "1" if first else "0", _now(), *pairs)
        if not left:
            raise StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")
        return Status(left)

    def _clock_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _run(self, script: str, job_id: str, *args: Any) -> Any:
        return self._call(script, self._prefix, job_id, *args)

    def _call(self, script: str, *args: Any) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        with translate_redis_errors():
            return self._scripts[script](args=args)


def _reused(job_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(f"this Idempotency-Key was used for another request, job {job_id}")


def _now() -> str:
    return datetime.now(UTC).isoformat()
