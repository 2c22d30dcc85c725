"""The job store: records of background jobs in Redis and the leases of workers on them, each changed atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis
from redis.exceptions import LockError

from snf_client.schemas.base import JobType
from snf_worker.errors import (
    BrokerDown,
    IdempotencyConflict,
    JobConflict,
    JobInUse,
    JobNotFound,
    StaleAttempt,
    TooManyJobs,
)
from snf_worker.jobs.record import TERMINAL, Job, JobPage, Queue, RequestedAction, Status, from_hash, to_hash

_CLOCK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

# Keys, after the prefix:
#
# - job:<id>: the record of a job, a hash.
# - jobs, jobs:status:<status>, jobs:type:<type>: indices of ids.
# - waiting:<queue>: ids of queued jobs in the order in which they are taken.
# - order: the newest place in these orders, a counter, so that no clock matters.
# - leases: ids by the end of their lease.
# - finished: ids of finished jobs by the time of their end.
# - shards:<id>: shards of a bulk job.
# - open:<caller>: ids of the unfinished jobs of a caller.
# - unrecorded: ids of failed jobs whose training run may not be marked as failed yet.
# - removed: ids of removed jobs whose files may still be there.
# - changes:<id>: a capped stream of the states of a job, written together with each change.
#
# All times are milliseconds of the Redis clock, so that the clocks of workers need not agree.
#
# A job is queued -> starting (TAKE) -> running (RENEW) -> a final status, or queued or paused again (LEAVE, EXPIRE).
# REQUEST moves a job that waits, and leaves a note for the attempt of one that does not.
_HELPERS = """
local call, prefix, id = redis.call, ARGV[1], ARGV[2]
local key = prefix .. 'job:' .. id
local unfinished = {'queued', 'starting', 'running', 'paused'}
local terminal = {succeeded = true, partial = true, failed = true, cancelled = true}

local function field(name) return call('HGET', key, name) end
local function choose(other) id, key = other, prefix .. 'job:' .. other end
local function active() return field('status') == 'starting' or field('status') == 'running' end
local function owns(attempt) return active() and field('attempts') == attempt end
local function write(first) if ARGV[first] then call('HSET', key, unpack(ARGV, first)) end end

local function lease(life)
  call('HSET', key, 'lease_expires', now + life, 'lease_ms', life)
  call('ZADD', prefix .. 'leases', now + life, id)
end

-- The status of an unfinished job that gives up its lease, as requested by users.
local function requested()
  if field('cancel_requested') == '1' then return 'cancelled' end
  return field('pause_requested') == '1' and 'paused' or 'queued'
end

-- Jobs that have run are taken before those that have not.
local function move(to, time, has_run)
  local from, line = field('status'), prefix .. 'waiting:' .. field('queue')
  if from then call('ZREM', prefix .. 'jobs:status:' .. from, id) end
  call('HSET', key, 'status', to)
  call('XADD', prefix .. 'changes:' .. id, 'MAXLEN', '~', 1000, '*',
    'status', to, 'attempt', field('attempts') or '0', 'worker', field('worker') or '')
  call('ZADD', prefix .. 'jobs:status:' .. to, 0, id)
  call('ZREM', line, id)
  if not active() then
    call('HDEL', key, 'worker', 'lease_expires', 'unconfirmed')
    call('ZREM', prefix .. 'leases', id)
  end
  if to == 'queued' then call('ZADD', line, call('INCR', prefix .. 'order') - (has_run and 1e13 or 0), id) end
  if to == 'paused' or terminal[to] then call('HDEL', key, 'pause_requested') end
  if to == 'failed' then call('SADD', prefix .. 'unrecorded', id) end
  if terminal[to] then
    call('HSET', key, 'finished_at', time)
    call('ZADD', prefix .. 'finished', now, id)
    call('SREM', prefix .. 'open:' .. (field('caller') or ''), id)
  end
end
"""

# ARGV: prefix, id, idempotency key or '', its life in ms, fingerprint, type, id of the job that is retried or '',
# caller, most unfinished jobs of the caller, most of all callers, field, value, ...
# Returns 'created', 'known' or 'conflict' with the id of the job; 'gone' where the job to retry was removed; 'caller is
# full' or 'all are full' with the number of unfinished jobs.
_CREATE = """
local idempotency, open = prefix .. 'idempotency:' .. ARGV[3], prefix .. 'open:' .. ARGV[8]
if ARGV[3] ~= '' then
  local known = call('HMGET', idempotency, 'id', 'fingerprint')
  -- The key of a job that was deleted is free again.
  if known[1] and call('EXISTS', prefix .. 'job:' .. known[1]) == 1 then
    return {known[2] == ARGV[5] and 'known' or 'conflict', known[1]}
  end
end
if ARGV[7] ~= '' and call('EXISTS', prefix .. 'job:' .. ARGV[7]) == 0 then return {'gone', ARGV[7]} end
local all, own = 0, ARGV[8] == '' and 0 or call('SCARD', open)
for _, status in ipairs(unfinished) do all = all + call('ZCARD', prefix .. 'jobs:status:' .. status) end
if all >= tonumber(ARGV[10]) then return {'all are full', tostring(all)} end
if own >= tonumber(ARGV[9]) then return {'caller is full', tostring(own)} end
if ARGV[3] ~= '' then
  call('HSET', idempotency, 'id', id, 'fingerprint', ARGV[5])
  call('PEXPIRE', idempotency, ARGV[4])
end
write(11)
if ARGV[8] ~= '' then call('SADD', open, id) end
call('ZADD', prefix .. 'jobs', 0, id)
call('ZADD', prefix .. 'jobs:type:' .. ARGV[6], 0, id)
move('queued')
return {'created', id}
"""

# ARGV: prefix, queue, worker, lease ms, now as text, id to leave in the queue, ...
# Takes the first job of a queue; returns its id and attempt, or nothing. A worker that calls again after a lost answer
# gets the same attempt: `unconfirmed` is set until it renews the lease for the first time.
_TAKE = """
for _, other in ipairs(call('ZRANGE', prefix .. 'leases', 0, -1)) do
  choose(other)
  if field('unconfirmed') and field('worker') == ARGV[3] then
    lease(ARGV[4])
    return {id, field('attempts')}
  end
end
local line, left = prefix .. 'waiting:' .. ARGV[2], {}
for i = 6, #ARGV do left[ARGV[i]] = true end
for _, other in ipairs(call('ZRANGE', line, 0, #ARGV)) do
  choose(other)
  if field('status') ~= 'queued' then
    call('ZREM', line, other)
  elseif not left[other] then
    call('HSET', key, 'step_at_start', field('checkpoint_step') or '', 'worker', ARGV[3], 'unconfirmed', '1')
    call('HSETNX', key, 'started_at', ARGV[5])
    local attempt = call('HINCRBY', key, 'attempts', 1)
    lease(ARGV[4])
    move('starting')
    return {id, tostring(attempt)}
  end
end
return {}
"""

# ARGV: prefix, id, attempt, lease ms, field, value, ... The first fields show that the attempt runs.
# Returns 'stale', 'cancel', 'pause' or 'go on'.
_RENEW = """
if not owns(ARGV[3]) then return 'stale' end
lease(ARGV[4])
-- After the first write: a server without memory refuses a script at HSET, unless the script has deleted keys.
call('HDEL', key, 'unconfirmed')
write(5)
if ARGV[5] and field('status') == 'starting' then move('running') end
return ({cancelled = 'cancel', paused = 'pause', queued = 'go on'})[requested()]
"""

# ARGV: prefix, id, attempt, new status, now as text, field, value, ...
# Returns the resulting status, or '' if stale. The new status 'queued' may result in 'paused' or 'cancelled'.
# The end of the newest attempt may be written again, after a lost answer: `left_by` has its number and new status.
# This changes nothing, and returns the present status.
_LEAVE = """
local by = ARGV[3] .. ' ' .. ARGV[4]
if not owns(ARGV[3]) then
  return field('attempts') == ARGV[3] and field('left_by') == by and field('status') or ''
end
local to = ARGV[4] == 'queued' and requested() or ARGV[4]
write(6)
call('HSET', key, 'left_by', by)
move(to, ARGV[5], true)
return to
"""

# ARGV: prefix, id, 'cancel', 'pause' or 'resume', now as text. Moves a job that waits; asks one that runs to stop, or
# withdraws a requested pause. Returns the earlier status or 'missing'; 'cancelling' if it is too late to pause;
# 'queued' if a resumed job needs a message, else 'going on', or 'waiting' if it is queued.
_REQUEST = """
local status, asked = field('status') or 'missing', ARGV[3]
if status == 'missing' or terminal[status] then return status end
if asked == 'cancel' then
  call('HSET', key, 'cancel_requested', '1')
  if not active() then move('cancelled', ARGV[4]) end
elseif asked == 'pause' then
  if active() and field('cancel_requested') == '1' then return 'cancelling' end
  if active() then call('HSET', key, 'pause_requested', '1') end
  if status == 'queued' then move('paused') end
elseif status == 'paused' then
  move('queued', nil, true)
  return 'queued'
elseif field('pause_requested') == '1' then
  call('HDEL', key, 'pause_requested')
  return 'going on'
end
return asked == 'resume' and status == 'queued' and 'waiting' or status
"""

# ARGV: prefix, id, now as text, largest number of attempts without progress.
# Returns 'queued', 'paused', 'cancelled', 'failed', or 'kept' if the lease has not expired after all. An attempt that
# its worker never confirmed had no process and does not count.
_EXPIRE = """
if not active() then call('ZREM', prefix .. 'leases', id) end
if not active() or tonumber(field('lease_expires') or 0) > now then return 'kept' end
local to, without = requested(), 0
if not field('unconfirmed') then
  if (field('checkpoint_step') or '') == (field('step_at_start') or '') then
    without = tonumber(field('attempts_without_progress') or 0) + 1
  end
  call('HSET', key, 'attempts_without_progress', without)
  if to == 'queued' then
    local read, progress = pcall(cjson.decode, field('progress') or '{}')
    local detail = 'worker ' .. (field('worker') or '?') .. ' vanished together with its trainer at step '
      .. tostring(read and type(progress) == 'table' and progress.step or 0)
      .. '; likely the machine ran out of memory: a smaller batch_size or preset needs less'
    if without >= tonumber(ARGV[4]) then
      to = 'failed'
      detail = without .. ' attempts in a row ended without a new checkpoint; the last one: ' .. detail
    end
    call('HSET', key, 'error', cjson.encode({type = 'worker-lost', title = 'The worker vanished', detail = detail}))
  end
end
move(to, ARGV[3], true)
return to
"""

# ARGV: prefix, ''. Corrects times in the future, which are from before the clock was set back: a lease has its whole
# length left, and finished jobs have just ended. Returns how many times were corrected.
_CAP_TIMES = """
local corrected = 0
local function later(index) return call('ZRANGEBYSCORE', prefix .. index, '(' .. now, '+inf', 'WITHSCORES') end
local finished, leases = later('finished'), later('leases')
for k = 1, #finished, 2 do corrected = corrected + call('ZADD', prefix .. 'finished', 'CH', now, finished[k]) end
for k = 1, #leases, 2 do
  choose(leases[k])
  local life = tonumber(field('lease_ms')) or 0
  if life > 0 and tonumber(leases[k + 1]) > now + life then
    lease(life)
    corrected = corrected + 1
  end
end
return corrected
"""

# ARGV: prefix, id, '1' for a job that is removed because of its age.
# Removes a finished job. Returns {'removed'}, {'missing'}, {status} of an unfinished job, or {'in use', id, status} of
# an unfinished job that retries it, or retries a retry of it. A job that is kept for this reason although it is old
# counts as one that ends now, so that its age is checked again after another retention time.
_REMOVE = """
local status, kind = field('status') or 'missing', field('type') or ''
if not terminal[status] then return {status} end
for _, other_status in ipairs(unfinished) do
  for _, other in ipairs(call('ZRANGE', prefix .. 'jobs:status:' .. other_status, 0, -1)) do
    local earlier = other
    repeat
      earlier = call('HGET', prefix .. 'job:' .. earlier, 'retry_of')
      if earlier == id then
        if ARGV[3] == '1' then call('ZADD', prefix .. 'finished', now, id) end
        return {'in use', other, other_status}
      end
    until not earlier
  end
end
call('SADD', prefix .. 'removed', id)
call('SREM', prefix .. 'unrecorded', id)
call('DEL', key, prefix .. 'changes:' .. id, prefix .. 'shards:' .. id)
for _, index in ipairs({'jobs', 'finished', 'jobs:status:' .. status, 'jobs:type:' .. kind}) do
  call('ZREM', prefix .. index, id)
end
return {'removed'}
"""

# ARGV: key, life in ms. Returns {shard, token}, or {} if no shard is free.
_CLAIM = """
local free = redis.call('ZRANGEBYSCORE', ARGV[1], '-inf', now, 'LIMIT', 0, 1)
-- A claim that ends later than a new one would is from before the clock was set back.
if #free == 0 then free = redis.call('ZRANGEBYSCORE', ARGV[1], '(' .. now + ARGV[2], '+inf', 'LIMIT', 0, 1) end
if #free == 0 then return {} end
local token = string.format('%.0f', now + ARGV[2])
redis.call('ZADD', ARGV[1], token, free[1])
return {free[1], token}
"""

# ARGV: key, shard, token, life in ms. Returns the new token, or '' if another process has the claim.
_RENEW_CLAIM = """
local score = redis.call('ZSCORE', ARGV[1], ARGV[2])
if not score or tonumber(score) ~= tonumber(ARGV[3]) then return '' end
local token = string.format('%.0f', now + ARGV[4])
redis.call('ZADD', ARGV[1], token, ARGV[2])
return token
"""


class Shards:
    """Unfinished shards of a bulk job. An expired claim frees its shard; scoring a shard twice does no harm."""

    def __init__(self, client: redis.Redis, prefix: str, job_id: str) -> None:
        self._client: Any = client
        self._key = f"{prefix}shards:{job_id}"

    def offer(self, shards: Iterable[int]) -> None:
        """Mark shards as unfinished; a shard that is present already keeps its claim."""
        if unclaimed := dict.fromkeys(map(str, shards), 0):
            self._client.zadd(self._key, unclaimed, nx=True)

    def claim(self, life_s: float) -> tuple[int, str] | None:
        """Claim a free shard for ``life_s`` seconds; return its number and a token, or None if none is free."""
        claim = self._client.eval(_CLOCK + _CLAIM, 0, self._key, int(life_s * 1000))
        return (int(claim[0]), claim[1]) if claim else None

    def renew(self, shard: int, token: str, life_s: float) -> str | None:
        """Extend a claim and return its new token; None if it expired and another process has the shard."""
        return self._client.eval(_CLOCK + _RENEW_CLAIM, 0, self._key, shard, token, int(life_s * 1000)) or None

    def release(self, shard: int, token: str) -> None:
        self.renew(shard, token, 0)

    def done(self, shard: int) -> None:
        """Remove a shard once the file with its scores is written."""
        self._client.zrem(self._key, str(shard))

    def unfinished(self) -> list[int]:
        """Return the unfinished shards, including shards in progress."""
        return [int(shard) for shard in self._client.zrange(self._key, 0, -1)]

    def free(self) -> int:
        return int(self._client.zcount(self._key, "-inf", _clock_ms(self._client)))

    def forget(self) -> None:
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
        self._client: Any = client
        self._prefix = prefix
        self._limits = limits
        self._idempotency_ms = int(idempotency_s * 1000)

    def ping(self) -> None:
        self._client.ping()

    def create(self, job: Job, idempotency_key: str | None = None, fingerprint: str = "") -> tuple[Job, bool]:
        """Store a new job, or return the one stored with the same idempotency key; also return whether it is new."""
        key = idempotency_key or ""
        request = key, self._idempotency_ms, fingerprint, job.type, job.retry_of or "", job.caller, *self._limits
        verdict, value = self._run(_CREATE, job.id, *request, *_pairs(job.model_dump(mode="json", exclude={"status"})))
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
        job_id, stored = self._client.hmget(self._key(f"idempotency:{key}"), ["id", "fingerprint"])
        jobs = self._read([job_id] if job_id else [])  # the key of a job that was deleted is free again
        if jobs and stored != fingerprint:
            raise _reused(job_id)
        return jobs[0] if jobs else None

    def get(self, job_id: str) -> Job:
        """Return the record of a job; raise ``JobNotFound``."""
        fields = self._client.hgetall(self._key(f"job:{job_id}"))
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
        index = f"jobs:status:{status}" if status else f"jobs:type:{type}" if type else "jobs"
        matching: list[Job] = []
        cursor = after
        while len(matching) <= limit:
            wanted = limit + 1 - len(matching)
            start = f"({cursor}" if cursor else "+"
            ids = self._client.zrange(self._key(index), start, "-", desc=True, bylex=True, offset=0, num=wanted)
            # A job may have changed since the index was read, and one index serves both filters.
            matching += [j for j in self._read(ids) if status in (None, j.status) and type in (None, j.type)]
            if len(ids) < wanted:
                break
            cursor = ids[-1]
        more = len(matching) > limit
        return JobPage(jobs=matching[:limit], next=matching[limit - 1].id if more else None)

    def count(self, status: Status) -> int:
        return int(self._client.zcard(self._key(f"jobs:status:{status}")))

    def waiting(self, queue: Queue) -> int:
        """Return the number of jobs that wait in a queue."""
        return int(self._client.zcard(self._key(f"waiting:{queue}")))

    def position(self, job: Job) -> int | None:
        """Return the number of jobs ahead of the given job in its queue; None if it does not wait."""
        rank: int | None = self._client.zrank(self._key(f"waiting:{job.queue}"), job.id)
        return rank

    def message_count(self, keys: Sequence[str]) -> int:
        """Return how many messages wait in the Redis lists ``keys``, such as those of ``queue_key``."""
        return sum(self._client.llen(key) for key in keys)

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued or paused job, or ask a running one to stop; raise ``JobConflict`` if it is over."""
        return self._request(job_id, "cancel")[0]

    def request_pause(self, job_id: str) -> Job:
        """Pause a queued job, or ask a running one to pause; raise ``JobConflict`` if it is over."""
        return self._request(job_id, "pause", "cancelling")[0]

    def request_resume(self, job_id: str) -> tuple[Job, bool]:
        """Queue a paused job again, or withdraw a request; also return whether it needs a new message."""
        job, verdict = self._request(job_id, "resume", "waiting", Status.STARTING, Status.RUNNING)
        return job, verdict == "queued"

    def _request(self, job_id: str, action: str, *conflicts: str) -> tuple[Job, str]:
        verdict = self._run(_REQUEST, job_id, action, utc_now_iso())
        if verdict == "missing":
            raise _unknown(job_id)
        if verdict in (*TERMINAL, *conflicts):
            state = {"cancelling": "being cancelled", "waiting": "queued"}.get(verdict, verdict)
            raise JobConflict(f"job {job_id} is {state}")
        return self.get(job_id), verdict

    def take(self, queue: Queue, worker: str, lease_s: float, leave: Sequence[str] = ()) -> tuple[str, int] | None:
        """Take the first job of a queue that is not in ``leave``; return its id and the number of the attempt, or None.

        A worker that calls again before it has renewed the lease gets the same attempt: the answer may have been lost.
        """
        taken = self._run(_TAKE, queue.value, worker, int(lease_s * 1000), utc_now_iso(), *leave)
        return (taken[0], int(taken[1])) if taken else None

    def renew(
        self, job_id: str, attempt: int, lease_s: float, changes: Mapping[str, Any] | None = None
    ) -> RequestedAction:
        """Extend a lease and return what users requested, or raise ``StaleAttempt``. With ``changes`` the job runs."""
        verdict = self._run(_RENEW, job_id, attempt, int(lease_s * 1000), *_pairs(changes or {}))
        if verdict == "stale":
            raise _stale(job_id, attempt)
        return RequestedAction(verdict)

    def holds(self, job_id: str, attempt: int) -> bool:
        """Return whether the job is starting or running and no newer attempt has begun."""
        status, newest = self._client.hmget(self._key(f"job:{job_id}"), ["status", "attempts"])
        return status in ("starting", "running") and newest == str(attempt)

    def finish(self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any]) -> None:
        """End the lease with a terminal status; may be repeated after a lost answer; raise ``StaleAttempt``."""
        if status not in TERMINAL:
            raise ValueError(f"expected a terminal status, got {status}")
        self._leave(job_id, attempt, status, changes)

    def put_back(self, job_id: str, attempt: int, changes: Mapping[str, Any]) -> Status:
        """Queue an unfinished job again, ahead of jobs that have not run; may be repeated; raise ``StaleAttempt``."""
        return self._leave(job_id, attempt, Status.QUEUED, changes)

    def _leave(self, job_id: str, attempt: int, status: Status, changes: Mapping[str, Any]) -> Status:
        left = self._run(_LEAVE, job_id, attempt, status.value, utc_now_iso(), *_pairs(changes))
        if not left:
            raise _stale(job_id, attempt)
        return Status(left)

    def expire(self, job_id: str, max_attempts: int) -> str:
        """End an expired lease; return the new status, failed after ``max_attempts`` without progress, or ``kept``."""
        return str(self._run(_EXPIRE, job_id, utc_now_iso(), max_attempts))

    def expired_leases(self) -> Ids:
        return self._until("leases", self.clock_ms(), 500)

    def finished_before(self, age_s: float, limit: int) -> Ids:
        """Return the ids of at most ``limit`` jobs that ended over ``age_s`` seconds ago, oldest first."""
        return self._until("finished", float(self.clock_ms()) - age_s * 1000, limit)

    def _until(self, index: str, latest_ms: float, limit: int) -> Ids:
        ids: Ids = self._client.zrangebyscore(self._key(index), "-inf", latest_ms, start=0, num=limit)
        return ids

    def clock_ms(self) -> int:
        """Return the time of the Redis server's clock, in milliseconds since 1970."""
        return _clock_ms(self._client)

    def cap_times(self) -> int:
        """Correct times that lie in the future since the Redis server's clock was set back; return their number."""
        return int(self._run(_CAP_TIMES, ""))

    @contextmanager
    def lock(self, name: str, life_s: float) -> Iterator[bool]:
        """Yield whether a lock shared by all workers was taken, for ``life_s`` seconds at most."""
        lock = self._client.lock(self._key(f"lock:{name}"), timeout=life_s)
        got = bool(lock.acquire(blocking=False))
        try:
            yield got
        finally:
            if got:
                with suppress(BrokerDown, LockError):  # it expires by itself
                    lock.release()

    def mentioning(self, name: str) -> Jobs:
        """Return the unfinished jobs that use a dataset or any version of a model, also in their parameters."""
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
        pipe = self._client.pipeline(transaction=False)
        for job_id in ids:
            pipe.hgetall(self._key(f"job:{job_id}"))
        return [from_hash(record) for record in pipe.execute() if record]

    def remove(self, job_id: str, *, because_old: bool = False) -> None:
        """Delete an ended job's record, not its files; with ``because_old`` a job in use counts as young again."""
        match self._run(_REMOVE, job_id, "1" if because_old else "0"):
            case ["in use", other, status]:
                raise JobInUse(
                    f"job {other} is {status} and uses the checkpoints of {job_id}; cancel it first or wait for its "
                    "end",
                    other,
                )
            case ["missing"]:
                raise _unknown(job_id)
            case [status] if status != "removed":
                raise JobConflict(f"job {job_id} is {status}; cancel it first or wait for its end")

    def unrecorded(self) -> Ids:
        """Return the ids of failed jobs whose training run may still have to be marked as failed."""
        return sorted(self._client.smembers(self._key("unrecorded")))

    def recorded(self, job_id: str) -> None:
        """Record that a failed job's training run has been marked as failed, or that it has none."""
        self._client.srem(self._key("unrecorded"), job_id)

    def removed(self) -> Ids:
        """Return the ids of removed jobs whose files may still exist."""
        return sorted(self._client.smembers(self._key("removed")))

    def cleared(self, job_id: str) -> None:
        """Record that the files of a removed job are deleted."""
        self._client.srem(self._key("removed"), job_id)

    def shards(self, job_id: str) -> Shards:
        return Shards(self._client, self._prefix, job_id)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _run(self, script: str, subject: str, *args: Any) -> Any:
        return self._client.eval(_CLOCK + _HELPERS + script, 0, self._prefix, subject, *args)


def utc_now_iso() -> str:
    return datetime.now(UTC).isoformat()


def _clock_ms(client: Any) -> int:
    seconds, microseconds = client.time()
    return int(seconds * 1000 + microseconds // 1000)


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
