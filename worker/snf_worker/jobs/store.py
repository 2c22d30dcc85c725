"""The job store: records of background jobs in Redis, each changed atomically."""

import json
from collections.abc import Sequence
from typing import NamedTuple, cast

import redis

from snf_client.schemas.base import JobType
from snf_worker.broker.connection import translate_redis_errors
from snf_worker.errors import IdempotencyConflict, JobConflict, JobInUse, JobNotFound, TooManyJobs
from snf_worker.jobs import lua_scripts as lua
from snf_worker.jobs.leases import LeaseStore, utc_now_iso
from snf_worker.jobs.record import TERMINAL, Job, JobPage, Status, from_hash, to_hash
from snf_worker.jobs.shards import Shards
from snf_worker.jobs.waiting_lines import WaitingLines


class JobLimits(NamedTuple):
    """Largest numbers of unfinished jobs (queued, starting, running or paused), per caller and in total."""

    per_caller: int
    altogether: int


UNLIMITED = JobLimits(2**53, 2**53)

# Inside the class, `JobStore.list` hides the builtin.
Ids = list[str]
Jobs = list[Job]


class JobStore(LeaseStore):
    """Store of jobs and their leases. Every method raises ``BrokerDown`` when Redis does not answer in time."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "snf:",
        idempotency_s: float = 86400.0,
        limits: JobLimits = UNLIMITED,
    ) -> None:
        super().__init__(client, prefix)
        self._limits = limits
        self._idempotency_ms = int(idempotency_s * 1000)
        self.lines = WaitingLines(client, prefix)

    def ping(self) -> None:
        with translate_redis_errors():
            self._client.ping()

    def create(self, job: Job, idempotency_key: str | None = None, fingerprint: str = "") -> tuple[Job, bool]:
        """Store a new job, or return the one stored with the same idempotency key; also return whether it is new."""
        fields = to_hash(job.model_dump(mode="json", exclude={"status"}))
        pairs = [part for pair in fields.items() for part in pair]
        key = idempotency_key or ""
        request = key, self._idempotency_ms, fingerprint, job.type, job.retry_of or ""
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

    def find_by_idempotency_key(self, idempotency_key: str, fingerprint: str) -> Job | None:
        """Return the job stored with an idempotency key, or None; raise ``IdempotencyConflict``."""
        with translate_redis_errors():
            key = self._key(f"idempotency:{idempotency_key}")
            job_id, stored = cast(Sequence[str | None], self._client.hmget(key, ["id", "fingerprint"]))
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
            jobs = self._read(ids)
            # A job may have changed since the index was read, and one index serves both filters.
            matching += [j for j in jobs if status in (None, j.status) and type in (None, j.type)]
            if len(ids) < wanted:
                break
            cursor = ids[-1]
        more = len(matching) > limit
        return JobPage(jobs=matching[:limit], next=matching[limit - 1].id if more else None)

    def count(self, status: Status) -> int:
        with translate_redis_errors():
            return self._client.zcard(self._key(f"jobs:status:{status.value}"))

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued or paused job, or ask a running one to stop; raise ``JobConflict`` if it is over."""
        self._refuse(job_id, self._run(lua.CANCEL, job_id, utc_now_iso()), *TERMINAL)
        return self.get(job_id)

    def request_pause(self, job_id: str) -> Job:
        """Pause a queued job, or ask a running one to pause; raise ``JobConflict`` if it is over."""
        verdict = self._run(lua.PAUSE, job_id)
        self._refuse(job_id, verdict, *TERMINAL, "cancelling")
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

    def finished_before(self, age_s: float, limit: int) -> Ids:
        """Return the ids of at most ``limit`` jobs that ended over ``age_s`` seconds ago, oldest first."""
        latest = float(self.clock_ms()) - age_s * 1000
        with translate_redis_errors():
            return cast(Ids, self._client.zrangebyscore(self._key("finished"), "-inf", latest, start=0, num=limit))

    def mentioning(self, name: str) -> Jobs:
        """Return the unfinished jobs that use a dataset or any version of a model, also in their parameters."""
        ids = cast(Ids, self._call(lua.MENTIONING, self._prefix, name, json.dumps(name)))
        return [job for job in self._read(ids) if not job.finished]

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
        with translate_redis_errors():
            return sorted(cast(set[str], self._client.smembers(self._key("unrecorded"))))

    def recorded(self, job_id: str) -> None:
        """Record that a failed job's training run has been marked as failed, or that it has none."""
        with translate_redis_errors():
            self._client.srem(self._key("unrecorded"), job_id)

    def removed(self) -> Ids:
        """Return the ids of removed jobs whose files may still exist."""
        with translate_redis_errors():
            return sorted(cast(set[str], self._client.smembers(self._key("removed"))))

    def cleared(self, job_id: str) -> None:
        """Record that the files of a removed job are deleted."""
        with translate_redis_errors():
            self._client.srem(self._key("removed"), job_id)

    def shards(self, job_id: str) -> Shards:
        return Shards(self._client, self._prefix, job_id)


def _unknown(job_id: str) -> JobNotFound:
    return JobNotFound(f"no job has the id {job_id}")


def _too_many(detail: str) -> TooManyJobs:
    return TooManyJobs(f"{detail}; wait until some have ended, or cancel some")


def _reused(job_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(f"this Idempotency-Key was used for another request, job {job_id}")
