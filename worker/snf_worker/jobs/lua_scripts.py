"""Lua scripts that change job records atomically inside Redis.

Keys, after the prefix:

- ``job:<id>``: the record of a job, a hash.
- ``jobs``, ``jobs:status:<status>``, ``jobs:type:<type>``: indices of ids.
- ``waiting:<queue>``: ids of queued jobs in the order in which they are taken.
- ``order``: the newest place in these orders, a counter, so that no clock matters.
- ``leases``: ids by the end of their lease.
- ``finished``: ids of finished jobs by the time of their end.
- ``shards:<id>``: shards of a bulk job.
- ``open:<caller>``: ids of the unfinished jobs of a caller.
- ``unrecorded``: ids of failed jobs whose training run may not be marked as failed yet.
- ``removed``: ids of removed jobs whose files may still be there.
- ``changes:<id>``: a capped stream of the states of a job, written together with each change.

All times are milliseconds of the Redis clock, so that the clocks of workers need not agree.
"""

FIRST = 10**13
"""Subtracted from the place of a job that is taken before those that have not run yet."""

_HELPERS = f"""
local prefix, id = ARGV[1], ARGV[2]
local key = prefix .. 'job:' .. id
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local unfinished = {{'queued', 'starting', 'running', 'paused'}}
local terminal = {{succeeded = true, partial = true, failed = true, cancelled = true}}

local function field(name) return redis.call('HGET', key, name) end
local function of(caller) return prefix .. 'open:' .. caller end
local function waiting() return prefix .. 'waiting:' .. (field('queue') or 'train-cpu') end
local function active() return field('status') == 'starting' or field('status') == 'running' end

local function write(first)
  for i = first, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
end

local function lease(life)
  redis.call('HSET', key, 'lease_expires', now + life, 'lease_ms', life)
  redis.call('ZADD', prefix .. 'leases', now + life, id)
end

local function wait_in_line(first)
  local place = redis.call('INCR', prefix .. 'order')
  if place == 1 then
    place = now  -- behind the jobs of earlier versions, which had times
    redis.call('SET', prefix .. 'order', string.format('%.0f', place))
  end
  redis.call('ZADD', waiting(), place - (first and {FIRST} or 0), id)
end

local function move(to, first, ended_at)
  local from = field('status')
  if from then redis.call('ZREM', prefix .. 'jobs:status:' .. from, id) end
  redis.call('HSET', key, 'status', to)
  redis.call('XADD', prefix .. 'changes:' .. id, 'MAXLEN', '~', 1000, '*',
    'status', to, 'attempt', field('attempts') or '0', 'worker', field('worker') or '')
  redis.call('ZADD', prefix .. 'jobs:status:' .. to, 0, id)
  if to ~= 'starting' and to ~= 'running' then
    redis.call('HDEL', key, 'worker', 'lease_expires', 'unconfirmed')
    redis.call('ZREM', prefix .. 'leases', id)
  end
  redis.call('ZREM', waiting(), id)
  if to == 'queued' then wait_in_line(first) end
  if to == 'paused' or terminal[to] then redis.call('HDEL', key, 'pause_requested') end
  if to == 'failed' then redis.call('SADD', prefix .. 'unrecorded', id) end
  if terminal[to] then
    redis.call('HSET', key, 'finished_at', ended_at)
    redis.call('ZADD', prefix .. 'finished', now, id)
    redis.call('SREM', of(field('caller') or ''), id)
  end
end

local function owns(attempt) return active() and field('attempts') == attempt end

-- The status of an unfinished job that gives up its lease, as requested by users.
local function requested_status()
  if field('cancel_requested') == '1' then return 'cancelled' end
  if field('pause_requested') == '1' then return 'paused' end
  return 'queued'
end
"""

# ARGV: prefix, id, idempotency key or '', its life in ms, fingerprint, type, id of the job that is retried or '',
# caller, most unfinished jobs of the caller, most of all callers, field, value, ...
# Returns 'created', 'known' or 'conflict' with the id of the job; 'gone' where the job to retry was removed; 'caller is
# full' or 'all are full' with the number of unfinished jobs.
CREATE = (
    _HELPERS
    + """
local idempotency, caller = prefix .. 'idempotency:' .. ARGV[3], ARGV[8]
if ARGV[3] ~= '' then
  local known = redis.call('HMGET', idempotency, 'id', 'fingerprint')
  -- The key of a job that was deleted is free again.
  if known[1] and redis.call('EXISTS', prefix .. 'job:' .. known[1]) == 1 then
    return {known[2] == ARGV[5] and 'known' or 'conflict', known[1]}
  end
end
if ARGV[7] ~= '' and redis.call('EXISTS', prefix .. 'job:' .. ARGV[7]) == 0 then return {'gone', ARGV[7]} end
local all = 0
for _, status in ipairs(unfinished) do
  all = all + redis.call('ZCARD', prefix .. 'jobs:status:' .. status)
end
if all >= tonumber(ARGV[10]) then return {'all are full', tostring(all)} end
local own = caller == '' and 0 or redis.call('SCARD', of(caller))
if own >= tonumber(ARGV[9]) then return {'caller is full', tostring(own)} end
if ARGV[3] ~= '' then
  redis.call('HSET', idempotency, 'id', id, 'fingerprint', ARGV[5])
  redis.call('PEXPIRE', idempotency, ARGV[4])
end
write(11)
if caller ~= '' then redis.call('SADD', of(caller), id) end
redis.call('ZADD', prefix .. 'jobs', 0, id)
redis.call('ZADD', prefix .. 'jobs:type:' .. ARGV[6], 0, id)
move('queued')
return {'created', id}
"""
)

# ARGV: prefix, queue, worker, lease ms, now as text, id to leave in the queue, ...
# Takes the first job of a queue; returns its id and attempt, or nothing. A worker that calls again after a lost answer
# gets the same attempt: `unconfirmed` is set until it renews the lease for the first time.
TAKE = (
    _HELPERS
    + """
local function choose(other) id, key = other, prefix .. 'job:' .. other end
for _, other in ipairs(redis.call('ZRANGE', prefix .. 'leases', 0, -1)) do
  choose(other)
  if field('unconfirmed') and field('worker') == ARGV[3] then
    lease(ARGV[4])
    return {id, field('attempts')}
  end
end
local line, passed, left = prefix .. 'waiting:' .. ARGV[2], 0, {}
for i = 6, #ARGV do left[ARGV[i]] = true end
repeat
  local other = redis.call('ZRANGE', line, passed, passed)[1]
  if not other then return {} end
  choose(other)
  local queued = field('status') == 'queued'
  if not queued then redis.call('ZREM', line, other) elseif left[other] then passed = passed + 1 end
until queued and not left[other]
redis.call('HSET', key, 'step_at_start', field('checkpoint_step') or '', 'worker', ARGV[3], 'unconfirmed', '1')
redis.call('HSETNX', key, 'started_at', ARGV[5])
local attempt = redis.call('HINCRBY', key, 'attempts', 1)
lease(ARGV[4])
move('starting')
return {id, tostring(attempt)}
"""
)

# ARGV: prefix, id, attempt, lease ms, field, value, ... Returns 'stale', 'cancel', 'pause' or 'go on'.
RENEW = (
    _HELPERS
    + """
if not owns(ARGV[3]) then return 'stale' end
lease(ARGV[4])
-- After the first write: a server without memory refuses a script at HSET, unless the script has deleted keys.
redis.call('HDEL', key, 'unconfirmed')
write(5)
local asked = {cancelled = 'cancel', paused = 'pause', queued = 'go on'}
return asked[requested_status()]
"""
)

# ARGV: prefix, id, attempt, new status, now as text, field, value, ...
# Returns the resulting status, or '' if stale. The new status 'queued', first in line, may result in 'paused' or
# 'cancelled'. The end of the newest attempt may be written again, after a lost answer: `left_by` has its number and
# new status. This changes nothing, and returns the present status.
LEAVE = (
    _HELPERS
    + """
local by = ARGV[3] .. ' ' .. ARGV[4]
if not owns(ARGV[3]) then
  return field('attempts') == ARGV[3] and field('left_by') == by and field('status') or ''
end
local to = ARGV[4] == 'queued' and requested_status() or ARGV[4]
write(6)
if to ~= 'running' then redis.call('HSET', key, 'left_by', by) end
move(to, true, ARGV[5])
return to
"""
)

# ARGV: prefix, id, now as text. Cancels a waiting job now, asks a running one to stop.
# Returns the earlier status, or 'missing'.
CANCEL = (
    _HELPERS
    + """
local status = field('status') or 'missing'
if status == 'missing' or terminal[status] then return status end
redis.call('HSET', key, 'cancel_requested', '1')
if not active() then move('cancelled', false, ARGV[3]) end
return status
"""
)

# ARGV: prefix, id. Pauses a queued job now, asks a running one to stop.
# Returns the earlier status, 'cancelling', or 'missing'.
PAUSE = (
    _HELPERS
    + """
local status = field('status') or 'missing'
if active() and field('cancel_requested') == '1' then return 'cancelling' end
if status == 'queued' then move('paused') end
if active() then redis.call('HSET', key, 'pause_requested', '1') end
return status
"""
)

# ARGV: prefix, id. Queues a paused job first in line, or withdraws a requested pause.
# Returns 'queued' if the job needs a message, else its status, or 'missing'.
RESUME = (
    _HELPERS
    + """
local status = field('status') or 'missing'
if status == 'paused' then
  move('queued', true)
  return 'queued'
end
if field('pause_requested') == '1' then
  redis.call('HDEL', key, 'pause_requested')
  return 'going on'
end
return status == 'queued' and 'waiting' or status
"""
)

# ARGV: prefix, id, now as text, largest number of attempts without progress.
# Returns 'queued', 'paused', 'cancelled', 'failed', or 'kept' if the lease has not expired after all. An attempt that
# its worker never confirmed had no process and does not count.
EXPIRE = (
    _HELPERS
    + """
if not active() then
  redis.call('ZREM', prefix .. 'leases', id)
  return 'kept'
end
if tonumber(field('lease_expires') or 0) > now then return 'kept' end
local to = requested_status()
if not field('unconfirmed') then
  local without = 0
  if (field('checkpoint_step') or '') == (field('step_at_start') or '') then
    without = (tonumber(field('attempts_without_progress') or field('fruitless')) or 0) + 1
  end
  redis.call('HSET', key, 'attempts_without_progress', without)
  if to == 'queued' then
    local read, progress = pcall(cjson.decode, field('progress') or '{}')
    local step = read and type(progress) == 'table' and progress.step or 0
    local detail = 'worker ' .. (field('worker') or '?') .. ' vanished together with its trainer at step '
      .. tostring(step) .. '; likely the machine ran out of memory: a smaller batch_size or preset needs less'
    if without >= tonumber(ARGV[4]) then
      to = 'failed'
      detail = without .. ' attempts in a row ended without a new checkpoint; the last one: ' .. detail
    end
    local error = {type = 'worker-lost', title = 'The worker vanished', detail = detail}
    redis.call('HSET', key, 'error', cjson.encode(error))
  end
end
move(to, true, ARGV[3])
return to
"""
)

# ARGV: prefix, ''. Corrects times in the future, which are from before the clock was set back: a lease has its whole
# length left, and finished jobs have just ended. Returns how many times were corrected.
CAP_TIMES = (
    _HELPERS
    + """
local corrected = 0
local function later(index) return redis.call('ZRANGEBYSCORE', prefix .. index, '(' .. now, '+inf', 'WITHSCORES') end
local finished, leases = later('finished'), later('leases')
for k = 1, #finished, 2 do
  redis.call('ZADD', prefix .. 'finished', now, finished[k])
  corrected = corrected + 1
end
for k = 1, #leases, 2 do
  id, key = leases[k], prefix .. 'job:' .. leases[k]
  local life = tonumber(field('lease_ms')) or 0
  if life > 0 and tonumber(leases[k + 1]) > now + life then
    lease(life)
    corrected = corrected + 1
  end
end
return corrected
"""
)

# ARGV: prefix, id, '1' for a job that is removed because of its age.
# Removes a finished job. Returns {'removed'}, {'missing'}, {status} of an unfinished job, or {'in use', id, status} of
# an unfinished job that retries it, or retries a retry of it. A job that is kept for this reason although it is old
# counts as one that ends now, so that its age is checked again after another retention time.
REMOVE = (
    _HELPERS
    + """
local status, kind = field('status'), field('type')
if not status then return {'missing'} end
if not terminal[status] then return {status} end
for _, other_status in ipairs(unfinished) do
  for _, other in ipairs(redis.call('ZRANGE', prefix .. 'jobs:status:' .. other_status, 0, -1)) do
    local earlier = redis.call('HGET', prefix .. 'job:' .. other, 'retry_of')
    while earlier do
      if earlier == id then
        if ARGV[3] == '1' then redis.call('ZADD', prefix .. 'finished', now, id) end
        return {'in use', other, other_status}
      end
      earlier = redis.call('HGET', prefix .. 'job:' .. earlier, 'retry_of')
    end
  end
end
redis.call('SADD', prefix .. 'removed', id)
redis.call('SREM', prefix .. 'unrecorded', id)
redis.call('DEL', key, prefix .. 'changes:' .. id, prefix .. 'shards:' .. id)
for _, index in ipairs({'jobs', 'finished', 'jobs:status:' .. status, 'jobs:type:' .. (kind or '')}) do
  redis.call('ZREM', prefix .. index, id)
end
return {'removed'}
"""
)

# ARGV: lock key, token.
UNLOCK = """
if redis.call('GET', ARGV[1]) == ARGV[2] then return redis.call('DEL', ARGV[1]) end
return 0
"""
