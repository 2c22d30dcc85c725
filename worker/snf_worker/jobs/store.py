"""The job store: records of background jobs in Redis and the leases of workers on them, each changed atomically."""

import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import redis

from snf_client.schemas.base import JobType
from snf_worker.broker.connection import translate_redis_errors
from snf_worker.errors import (
    BrokerDown,
    IdempotencyConflict,
    JobConflict,
    JobInUse,
    JobNotFound,
    StaleAttempt,
    TooManyJobs,
)
from snf_worker.jobs import lua_scripts as lua
from snf_worker.jobs.record import TERMINAL, Job, JobPage, Queue, RequestedAction, Status, from_hash, to_hash

log = logging.getLogger(__name__)

# ARGV: key, life in ms. Returns {shard, token}, or {} if no shard is free.
_CLAIM = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local free = redis.call('ZRANGEBYSCORE', ARGV[1], '-inf', now, 'LIMIT', 0, 1)
-- A claim that ends later than a new one would is from before the clock was set back.
if #free == 0 then free = redis.call('ZRANGEBYSCORE', ARGV[1], '(' .. now + ARGV[2], '+inf', 'LIMIT', 0, 1) end
if #free == 0 then return {} end
local token = string.format('%.0f', now + ARGV[2])
redis.call('ZADD', ARGV[1], token, free[1])
return {free[1], token}
"""

# ARGV: key, shard, token, life in ms. Returns the new token, or '' if another process has the claim.
_RENEW = """
local score = redis.call('ZSCORE', ARGV[1], ARGV[2])
if not score or tonumber(score) ~= tonumber(ARGV[3]) then return '' end
local clock = redis.call('TIME')
local token = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[4])
redis.call('ZADD', ARGV[1], token, ARGV[2])
return token
"""


class Shards:
    """Unfinished shards of a bulk job. An expired claim frees its shard; scoring a shard twice does no harm."""

    def __init__(self, client: redis.Redis, prefix: str, job_id: str) -> None:
        self._client = client
        self._key = f"{prefix}shards:{job_id}"
        self._claim = client.register_script(_CLAIM)
        self._renew = client.register_script(_RENEW)

    def offer(self, shards: Iterable[int]) -> None:
        """Mark shards as unfinished; a shard that is present already keeps its claim."""
        unclaimed = dict.fromkeys(map(str, shards), 0)
        if unclaimed:
            with translate_redis_errors():
                self._client.zadd(self._key, cast(dict[Any, Any], unclaimed), nx=True)

    def claim(self, life_s: float) -> tuple[int, str] | None:
        """Claim a free shard for ``life_s`` seconds; return its number and a token, or None if none is free."""
        with translate_redis_errors():
            claim = cast(list[str], self._claim(args=[self._key, int(life_s * 1000)]))
        return (int(claim[0]), claim[1]) if claim else None

    def renew(self, shard: int, token: str, life_s: float) -> str | None:
        """Extend a claim and return its new token; None if it expired and another process has the shard."""
        with translate_redis_errors():
            return cast(str, self._renew(args=[self._key, shard, token, int(life_s * 1000)])) or None

    def release(self, shard: int, token: str) -> None:
        self.renew(shard, token, 0)

    def done(self, shard: int) -> None:
        """Remove a shard once the file with its scores is written."""
        with translate_redis_errors():
            self._client.zrem(self._key, str(shard))

    def unfinished(self) -> list[int]:
        """Return the unfinished shards, including shards in progress."""
        with translate_redis_errors():
            return [int(shard) for shard in cast(list[str], self._client.zrange(self._key, 0, -1))]

    def free(self) -> int:
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
            return self._client.zcount(self._key, "-inf", seconds * 1000 + microseconds // 1000)

    def forget(self) -> None:
        with translate_redis_errors():
            self._client.delete(self._key)


class JobLimits(NamedTuple):
    """Largest numbers of unfinished jobs (queued, starting, running or paused), per caller and in total."""

    per_caller: int
    altogether: int


UNLIMITED = JobLimits(2**53, 2**53)

# Inside the class, `JobStore.list` hides the builtin.
Ids = list[str]
Jobs = list[Job]


class JobStore:
    """Store of jobs and their leases. Every method raises ``BrokerDown`` when Redis does not answer in time.

    A lease is an exclusive, expiring right to run a job; only its newest attempt may change the record.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "snf:",
        idempotency_s: float = 86400.0,
        limits: JobLimits = UNLIMITED,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._limits = limits
        self._idempotency_ms = int(idempotency_s * 1000)
        self._scripts: dict[str, Any] = {}

    def ping(self) -> None:
        with translate_redis_errors():
            self._client.ping()

    def create(self, job: Job, idempotency_key: str | None = None, fingerprint: str = "") -> tuple[Job, bool]:
        """Store a new job, or return the one stored with the same idempotency key; also return whether it is new."""
        pairs = _pairs(job.model_dump(mode="json", exclude={"status"}))
        key = idempotency_key or ""
        request = key, self._idempotency_ms, fingerprint, job.type, job.retry_of or "", job.caller
        verdict, value = self._run(lua.CREATE, job.id, *request, *self._limits, *pairs)
        match verdict:
            case "conflict":
                raise _reused(value)
            case "gone":
                raise _unknown(value)
            case "caller is full":
                raise _too_many(f"this caller has {value} unfinished jobs, and may have {self._limits.per_caller}")
            case "all are full":
                raise _too_many(f"{value} jobs are unfinished, and {self._limits.altogether} may be")
        return self.get(value), verdict == "created"

    def find_by_idempotency_key(self, key: str, fingerprint: str) -> Job | None:
        """Return the job stored with an idempotency key, or None; raise ``IdempotencyConflict``."""
        with translate_redis_errors():
            job_id, stored = cast(
                Sequence[str | None], self._client.hmget(self._key(f"idempotency:{key}"), ["id", "fingerprint"])
            )
        if job_id is None:
            return None
        try:
            job = self.get(job_id)
        except JobNotFound:
            return None  # it was deleted, so its key is free again
        if stored != fingerprint:
            raise _reused(job_id)
        return job

    def get(self, job_id: str) -> Job:
        """Return the record of a job; raise ``JobNotFound``."""
        with translate_redis_errors():
            fields = cast(dict[str, str], self._client.hgetall(self._key(f"job:{job_id}")))
        if not fields:
            raise _unknown(job_id)
        return from_hash(fields)

    def list(
        self,
        after: str | None = None,
        limit: int = 50,
        status: Status | None = None,
        type: JobType | None = None,
    ) -> JobPage:
        """Return a page of jobs, newest first, created before the job ``after``."""
        index = "jobs"
        if status is not None:
            index = f"jobs:status:{status.value}"
        elif type is not None:
            index = f"jobs:type:{type}"
        matching: list[Job] = []
        cursor = after
        while len(matching) <= limit:
            wanted = limit + 1 - len(matching)
            start = f"({cursor}" if cursor else "+"
            with translate_redis_errors():
                page = self._client.zrange(self._key(index), start, "-", desc=True, bylex=True, offset=0, num=wanted)
            ids = cast(Ids, page)
            # A job may have changed since the index was read, and one index serves both filters.
            matching += [j for j in self._read(ids) if status in (None, j.status) and type in (None, j.type)]
            if len(ids) < wanted:
                break
            cursor = ids[-1]
        more = len(matching) > limit
        return JobPage(jobs=matching[:limit], next=matching[limit - 1].id if more else None)

    def count(self, status: Status) -> int:
        with translate_redis_errors():
            return self._client.zcard(self._key(f"jobs:status:{status.value}"))

    def waiting(self, queue: Queue) -> int:
        """Return the number of jobs that wait in a queue."""
        with translate_redis_errors():
            return self._client.zcard(self._key(f"waiting:{queue}"))

    def position(self, job: Job) -> int | None:
        """Return the number of jobs ahead of the given job in its queue; None if it does not wait."""
        with translate_redis_errors():
            return cast(int | None, self._client.zrank(self._key(f"waiting:{job.queue}"), job.id))

    def message_count(self, keys: Sequence[str]) -> int:
        """Return how many messages wait in the Redis lists ``keys``, such as those of ``queue_key``."""
        with translate_redis_errors():
            return sum(self._client.llen(key) for key in keys)

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued or paused job, or ask a running one to stop; raise ``JobConflict`` if it is over."""
        self._refuse(job_id, self._run(lua.CANCEL, job_id, utc_now_iso()), *TERMINAL)
        return self.get(job_id)

    def request_pause(self, job_id: str) -> Job:
        """Pause a queued job, or ask a running one to pause; raise ``JobConflict`` if it is over."""
        self._refuse(job_id, self._run(lua.PAUSE, job_id), *TERMINAL, "cancelling")
        return self.get(job_id)

    def request_resume(self, job_id: str) -> tuple[Job, bool]:
        """Queue a paused job again, or withdraw a request; also return whether it needs a new message."""
        verdict = self._run(lua.RESUME, job_id)
        self._refuse(job_id, verdict, *TERMINAL, "waiting", Status.STARTING, Status.RUNNING)
        return self.get(job_id), verdict == "queued"

    def _refuse(self, job_id: str, verdict: str, *conflicts: str) -> None:
        if verdict == "missing":
            raise _unknown(job_id)
        if verdict in conflicts:
            state = {"cancelling": "being cancelled", "waiting": "queued"}.get(verdict, verdict)
            raise JobConflict(f"job {job_id} is {state}")

    def take(self, queue: Queue, worker: str, lease_s: float, leave: Sequence[str] = ()) -> tuple[str, int] | None:
        """Take the first job of a queue that is not in ``leave``; return its id and the number of the attempt, or None.

        A worker that calls again before it has renewed the lease gets the same attempt: the answer may have been lost.
        """
        taken = self._run(lua.TAKE, queue.value, worker, int(lease_s * 1000), utc_now_iso(), *leave)
        return (taken[0], int(taken[1])) if taken else None

    def renew(
        self, job_id: str, attempt: int, lease_s: float, changes: Mapping[str, Any] | None = None
    ) -> RequestedAction:
        """Extend a lease, write ``changes``, and return what users requested; raise ``StaleAttempt``."""
        verdict = self._run(lua.RENEW, job_id, attempt, int(lease_s * 1000), *_pairs(changes or {}))
        if verdict == "stale":
            raise _stale(job_id, attempt)
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
        return self._leave(job_id, attempt, Status.QUEUED, changes)

    def _leave(self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any]) -> Status:
        left = self._run(lua.LEAVE, job_id, attempt, status.value, utc_now_iso(), *_pairs(changes))
        if not left:
            raise _stale(job_id, attempt)
        return Status(left)

    def expire(self, job_id: str, max_attempts: int) -> str:
        """End an expired lease; return the new status, failed after ``max_attempts`` without progress, or ``kept``."""
        return str(self._run(lua.EXPIRE, job_id, utc_now_iso(), max_attempts))

    def expired_leases(self) -> Ids:
        return self._until("leases", self.clock_ms(), 500)

    def finished_before(self, age_s: float, limit: int) -> Ids:
        """Return the ids of at most ``limit`` jobs that ended over ``age_s`` seconds ago, oldest first."""
        return self._until("finished", float(self.clock_ms()) - age_s * 1000, limit)

    def _until(self, index: str, latest_ms: float, limit: int) -> Ids:
        with translate_redis_errors():
            return cast(Ids, self._client.zrangebyscore(self._key(index), "-inf", latest_ms, start=0, num=limit))

    def clock_ms(self) -> int:
        """Return the time of the Redis server's clock, in milliseconds since 1970."""
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000

    def cap_times(self) -> int:
        """Correct times that lie in the future since the Redis server's clock was set back; return their number."""
        return int(self._run(lua.CAP_TIMES, ""))

    def adopt_lines_of_earlier_version(self) -> None:
        """Put jobs that an earlier version kept in a line of its own at the head of their queue."""
        with translate_redis_errors():
            for queue in Queue:
                line = self._key(f"waiting:first:{queue}")
                places = cast(Sequence[tuple[str, float]], self._client.zrange(line, 0, -1, withscores=True))
                if places:
                    adopted = {job_id: place - lua.FIRST for job_id, place in places}
                    pipe = self._client.pipeline()
                    pipe.zadd(self._key(f"waiting:{queue}"), cast(dict[Any, Any], adopted))
                    pipe.delete(line)
                    pipe.execute()

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

    def mentioning(self, name: str) -> Jobs:
        """Return the unfinished jobs that use a dataset or any version of a model, also in their parameters."""
        with translate_redis_errors():
            pipe = self._client.pipeline()
            for status in set(Status) - TERMINAL:
                pipe.zrange(self._key(f"jobs:status:{status}"), 0, -1)
            jobs = self._read([job_id for ids in pipe.execute() for job_id in ids])
        quoted = json.dumps(name)
        return [
            job
            for job in jobs
            if not job.finished
            and (name in (job.dataset, job.model, job.model.partition(":")[0]) or quoted in json.dumps(job.parameters))
        ]

    def _read(self, ids: Sequence[str]) -> Jobs:
        """Return the records of jobs in one round trip, without those that were removed."""
        with translate_redis_errors():
            pipe = self._client.pipeline(transaction=False)
            for job_id in ids:
                pipe.hgetall(self._key(f"job:{job_id}"))
            records = cast(Sequence[dict[str, str]], pipe.execute())
        return [from_hash(record) for record in records if record]

    def remove(self, job_id: str, *, because_old: bool = False) -> None:
        """Delete an ended job's record, not its files; with ``because_old`` a job in use counts as young again."""
        verdict, *user = self._run(lua.REMOVE, job_id, "1" if because_old else "0")
        if verdict == "in use":
            other, status = user
            raise JobInUse(
                f"job {other} is {status} and uses the checkpoints of {job_id}; cancel it first or wait for its end",
                other,
            )
        if verdict == "missing":
            raise _unknown(job_id)
        if verdict != "removed":
            raise JobConflict(f"job {job_id} is {verdict}; cancel it first or wait for its end")

    def unrecorded(self) -> Ids:
        """Return the ids of failed jobs whose training run may still have to be marked as failed."""
        return self._members("unrecorded")

    def recorded(self, job_id: str) -> None:
        """Record that a failed job's training run has been marked as failed, or that it has none."""
        with translate_redis_errors():
            self._client.srem(self._key("unrecorded"), job_id)

    def removed(self) -> Ids:
        """Return the ids of removed jobs whose files may still exist."""
        return self._members("removed")

    def cleared(self, job_id: str) -> None:
        """Record that the files of a removed job are deleted."""
        with translate_redis_errors():
            self._client.srem(self._key("removed"), job_id)

    def _members(self, name: str) -> Ids:
        with translate_redis_errors():
            return sorted(cast(set[str], self._client.smembers(self._key(name))))

    def shards(self, job_id: str) -> Shards:
        return Shards(self._client, self._prefix, job_id)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _run(self, script: str, subject: str, *args: Any) -> Any:
        return self._call(script, self._prefix, subject, *args)

    def _call(self, script: str, *args: Any) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        with translate_redis_errors():
            return self._scripts[script](args=args)


def utc_now_iso() -> str:
    return datetime.now(UTC).isoformat()


def _pairs(fields: Mapping[str, Any]) -> Sequence[str]:
    return [part for pair in to_hash(fields).items() for part in pair]


def _stale(job_id: str, attempt: int) -> StaleAttempt:
    return StaleAttempt(f"attempt {attempt} of job {job_id} does not hold the lease")


def _unknown(job_id: str) -> JobNotFound:
    return JobNotFound(f"no job has the id {job_id}")


def _too_many(detail: str) -> TooManyJobs:
    return TooManyJobs(f"{detail}; wait until some have ended, or cancel some")


def _reused(job_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(f"this Idempotency-Key was used for another request, job {job_id}")
