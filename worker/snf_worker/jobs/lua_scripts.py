"""Lua scripts that change job records atomically inside Redis.

Keys, after the prefix:

- ``job:<id>``: the record of a job, a hash.
- ``jobs``, ``jobs:status:<status>``, ``jobs:type:<type>``: indices of ids.
- ``leases``: ids by the end of their lease.
- ``finished``: ids of finished jobs by the time of their end.
- ``waiting:<line>``: queued ids by the time of their last message.
- ``taken:<line>``: time of the message of the newest job that was taken from the line.
- ``shards:<id>``: shards of a bulk job.
- ``open:<caller>``: ids of the unfinished jobs of a caller.
- ``unrecorded``: ids of failed jobs whose training run may not be marked as failed yet.
- ``removed``: ids of removed jobs whose files may still be there.
- ``changes:<id>``: a capped stream of the states of a job, written together with each change.

A queue has two lines with a list of messages each: ``first:<queue>`` is served before ``<queue>``. All times are
milliseconds of the Redis clock, so that the clocks of workers need not agree.
"""

_UNFINISHED = """
local unfinished = {'queued', 'starting', 'running', 'paused'}
"""

_HELPERS = (
    _UNFINISHED
    + """
local prefix, id = ARGV[1], ARGV[2]
local key = prefix .. 'job:' .. id
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local terminal = {succeeded = true, partial = true, failed = true, cancelled = true}

local function field(name) return redis.call('HGET', key, name) end
local function of(caller) return prefix .. 'open:' .. caller end
local function queue() return field('queue') or 'train-cpu' end

local function line() return (field('first') == '1' and 'first:' or '') .. queue() end

local function wait_in_line()
  redis.call('HSET', key, 'dispatched', now)
  redis.call('ZADD', prefix .. 'waiting:' .. line(), now, id)
end

local function leave_line()
  redis.call('ZREM', prefix .. 'waiting:' .. queue(), id)
  redis.call('ZREM', prefix .. 'waiting:first:' .. queue(), id)
end

local function write(first)
  for i = first, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
end

local function move(to)
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
  leave_line()
  if to == 'queued' then wait_in_line() end
  if to == 'paused' or terminal[to] then redis.call('HDEL', key, 'pause_requested') end
  if to == 'failed' then redis.call('SADD', prefix .. 'unrecorded', id) end
  if terminal[to] then
    redis.call('ZADD', prefix .. 'finished', now, id)
    redis.call('SREM', of(field('caller') or ''), id)
  end
end

local function owns(attempt)
  local status = field('status')
  return (status == 'starting' or status == 'running') and field('attempts') == attempt
end

-- The status of an unfinished job that gives up its lease, as requested by users.
local function requested_status()
  if field('cancel_requested') == '1' then return 'cancelled' end
  if field('pause_requested') == '1' then return 'paused' end
  return 'queued'
end
"""
)

# ARGV: prefix, id, idempotency key or '', its life in ms, fingerprint, type, id of the job that is retried or '', most
# unfinished jobs of the caller, most of all callers, field, value, ...
# Returns 'created', 'known' or 'conflict' with the id of the job; 'gone' where the job to retry was removed; 'caller is
# full' or 'all are full' with the number of unfinished jobs.
CREATE = (
    _HELPERS
    + """
if ARGV[3] ~= '' then
  local known = redis.call('HMGET', prefix .. 'idempotency:' .. ARGV[3], 'id', 'fingerprint')
  -- The key of a job that was deleted is free again.
  if known[1] and redis.call('EXISTS', prefix .. 'job:' .. known[1]) == 1 then
    if known[2] ~= ARGV[5] then return {'conflict', known[1]} end
    return {'known', known[1]}
  end
end
if ARGV[7] ~= '' and redis.call('EXISTS', prefix .. 'job:' .. ARGV[7]) == 0 then return {'gone', ARGV[7]} end
local caller = ''
for i = 10, #ARGV, 2 do
  if ARGV[i] == 'caller' then caller = ARGV[i + 1] end
end
local all = 0
for _, status in ipairs(unfinished) do
  all = all + redis.call('ZCARD', prefix .. 'jobs:status:' .. status)
end
if all >= tonumber(ARGV[9]) then return {'all are full', tostring(all)} end
local own = caller == '' and 0 or redis.call('SCARD', of(caller))
if own >= tonumber(ARGV[8]) then return {'caller is full', tostring(own)} end
if ARGV[3] ~= '' then
  redis.call('HSET', prefix .. 'idempotency:' .. ARGV[3], 'id', id, 'fingerprint', ARGV[5])
  redis.call('PEXPIRE', prefix .. 'idempotency:' .. ARGV[3], ARGV[4])
end
write(10)
if caller ~= '' then redis.call('SADD', of(caller), id) end
redis.call('ZADD', prefix .. 'jobs', 0, id)
redis.call('ZADD', prefix .. 'jobs:type:' .. ARGV[6], 0, id)
move('queued')
return {'created', id}
"""
)

# ARGV: prefix, id, worker, lease ms, now as text, token of the delivery.
# Returns the attempt, or 0 if the job cannot be taken. The same delivery may call again, after a lost answer:
# `unconfirmed` holds its token until it renews the lease for the first time.
TAKE = (
    _HELPERS
    + """
local function lease()
  redis.call('HSET', key, 'lease_expires', now + ARGV[4], 'lease_ms', ARGV[4])
  redis.call('ZADD', prefix .. 'leases', now + ARGV[4], id)
end
if field('status') == 'starting' and field('unconfirmed') == ARGV[6] then
  lease()
  return tonumber(field('attempts'))
end
if field('status') ~= 'queued' or field('cancel_requested') == '1' then return 0 end
local taken = prefix .. 'taken:' .. line()
local sent, newest = tonumber(field('dispatched') or 0), tonumber(redis.call('GET', taken) or 0)
-- A time in the future is from before the clock was set back.
if sent > newest or newest > now then redis.call('SET', taken, string.format('%.0f', sent)) end
redis.call('HSET', key, 'step_at_start', field('checkpoint_step') or '')
local attempt = redis.call('HINCRBY', key, 'attempts', 1)
redis.call('HSETNX', key, 'started_at', ARGV[5])
redis.call('HSET', key, 'worker', ARGV[3], 'unconfirmed', ARGV[6])
lease()
move('starting')
return attempt
"""
)

# ARGV: prefix, id, attempt, lease ms, field, value, ... Returns 'stale', 'cancel', 'pause' or 'go on'.
RENEW = (
    _HELPERS
    + """
if not owns(ARGV[3]) then return 'stale' end
redis.call('HSET', key, 'lease_expires', now + ARGV[4], 'lease_ms', ARGV[4])
-- After the first write: a server without memory refuses a script at HSET, unless the script has deleted keys.
redis.call('HDEL', key, 'unconfirmed')
redis.call('ZADD', prefix .. 'leases', now + ARGV[4], id)
write(5)
local asked = {cancelled = 'cancel', paused = 'pause', queued = 'go on'}
return asked[requested_status()]
"""
)

# ARGV: prefix, id, attempt, new status, '1' for first in line, now as text, digest of the call, field, value, ...
# Returns the resulting status, or '' if stale. The new status 'queued' may result in 'paused' or 'cancelled'.
# A call that ended the newest attempt may come again, after a lost answer: `left_by` holds its digest. It changes
# nothing then, and returns the present status.
LEAVE = (
    _HELPERS
    + """
if not owns(ARGV[3]) then
  return field('attempts') == ARGV[3] and field('left_by') == ARGV[7] and field('status') or ''
end
local to = ARGV[4]
if to == 'queued' then to = requested_status() end
write(8)
redis.call('HSET', key, 'first', ARGV[5])
if to ~= 'running' then redis.call('HSET', key, 'left_by', ARGV[7]) end
if terminal[to] then redis.call('HSET', key, 'finished_at', ARGV[6]) end
move(to)
return to
"""
)

# ARGV: prefix, id, now as text. Returns 'now' for a job that was cancelled at once, else its status, or 'missing'.
CANCEL = (
    _HELPERS
    + """
local status = field('status')
if not status then return 'missing' end
if status == 'queued' or status == 'paused' then
  redis.call('HSET', key, 'cancel_requested', '1', 'finished_at', ARGV[3])
  move('cancelled')
  return 'now'
end
if status == 'starting' or status == 'running' then redis.call('HSET', key, 'cancel_requested', '1') end
return status
"""
)

# ARGV: prefix, id. Pauses a queued job now, asks a running one to stop.
# Returns the earlier status, 'cancelling', or 'missing'.
PAUSE = (
    _HELPERS
    + """
local status = field('status')
if not status then return 'missing' end
if field('cancel_requested') == '1' and not terminal[status] then return 'cancelling' end
if status == 'queued' then move('paused') end
if status == 'starting' or status == 'running' then redis.call('HSET', key, 'pause_requested', '1') end
return status
"""
)

# ARGV: prefix, id. Queues a paused job first in line, or withdraws a requested pause.
# Returns 'queued' if the job needs a message, else its status, or 'missing'.
RESUME = (
    _HELPERS
    + """
local status = field('status')
if not status then return 'missing' end
if status == 'paused' then
  redis.call('HSET', key, 'first', '1')
  move('queued')
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
local status = field('status')
if status ~= 'starting' and status ~= 'running' then
  redis.call('ZREM', prefix .. 'leases', id)
  return 'kept'
end
if tonumber(field('lease_expires') or 0) > now then return 'kept' end
local to = requested_status()
local confirmed = not field('unconfirmed')
local without = 0
if (field('checkpoint_step') or '') == (field('step_at_start') or '') then
  without = (tonumber(field('attempts_without_progress') or field('fruitless')) or 0) + 1
end
if confirmed then redis.call('HSET', key, 'attempts_without_progress', without) end
if confirmed and to == 'queued' then
  local read, progress = pcall(cjson.decode, field('progress') or '{}')
  local step = read and type(progress) == 'table' and progress.step or 0
  local detail = 'worker ' .. (field('worker') or '?') .. ' vanished together with its trainer at step '
    .. tostring(step) .. '; likely the machine ran out of memory: a smaller batch_size or preset needs less'
  if without >= tonumber(ARGV[4]) then
    to = 'failed'
    detail = without .. ' attempts in a row ended without a new checkpoint; the last one: ' .. detail
  end
  redis.call('HSET', key, 'error', cjson.encode({type = 'worker-lost', title = 'The worker vanished', detail = detail}))
end
redis.call('HSET', key, 'first', '1')
if terminal[to] then redis.call('HSET', key, 'finished_at', ARGV[3]) end
move(to)
return to
"""
)

# ARGV: prefix, line, ... Corrects times in the future, which are from before the clock was set back. Waiting jobs count
# from now on, and a lease has its whole length left. Returns how many times were corrected.
CAP_TIMES = """
local prefix, corrected = ARGV[1], 0
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function cap(index, id, most, name)
  redis.call('ZADD', prefix .. index, most, id)
  if name and redis.call('EXISTS', prefix .. 'job:' .. id) == 1 then
    redis.call('HSET', prefix .. 'job:' .. id, name, most)
  end
  corrected = corrected + 1
end
local function later(index) return redis.call('ZRANGEBYSCORE', prefix .. index, '(' .. now, '+inf', 'WITHSCORES') end
for i = 2, #ARGV do
  local waiting = later('waiting:' .. ARGV[i])
  for k = 1, #waiting, 2 do cap('waiting:' .. ARGV[i], waiting[k], now, 'dispatched') end
  if tonumber(redis.call('GET', prefix .. 'taken:' .. ARGV[i]) or 0) > now then
    redis.call('DEL', prefix .. 'taken:' .. ARGV[i])
    corrected = corrected + 1
  end
end
local finished = later('finished')
for k = 1, #finished, 2 do cap('finished', finished[k], now) end
local leases = later('leases')
for k = 1, #leases, 2 do
  local most = now + (tonumber(redis.call('HGET', prefix .. 'job:' .. leases[k], 'lease_ms')) or 0)
  if most > now and tonumber(leases[k + 1]) > most then cap('leases', leases[k], most, 'lease_expires') end
end
return corrected
"""

# ARGV: prefix, id. Moves a queued job to the first line, for a new message; returns 0 if it is no longer queued.
REDISPATCH = (
    _HELPERS
    + """
if field('status') ~= 'queued' then return 0 end
leave_line()
redis.call('HSET', key, 'first', '1')
wait_in_line()
return 1
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
redis.call('ZREM', prefix .. 'jobs', id)
redis.call('ZREM', prefix .. 'finished', id)
redis.call('ZREM', prefix .. 'jobs:status:' .. status, id)
if kind then redis.call('ZREM', prefix .. 'jobs:type:' .. kind, id) end
return {'removed'}
"""
)

# ARGV: prefix, a name, the name as JSON. Returns the ids of unfinished jobs with this dataset or model, with a version
# of this model, or with the name in their parameters.
MENTIONING = (
    _UNFINISHED
    + """
local prefix, name, quoted, ids = ARGV[1], ARGV[2], ARGV[3], {}
local of_model = name .. ':'
for _, status in ipairs(unfinished) do
  for _, id in ipairs(redis.call('ZRANGE', prefix .. 'jobs:status:' .. status, 0, -1)) do
    local fields = redis.call('HMGET', prefix .. 'job:' .. id, 'dataset', 'model', 'parameters')
    local dataset, model, parameters = fields[1], fields[2] or '', fields[3] or ''
    if dataset == name or model == name or string.sub(model, 1, #of_model) == of_model
      or string.find(parameters, quoted, 1, true) then
      ids[#ids + 1] = id
    end
  end
end
return ids
"""
)

# ARGV: lock key, token.
UNLOCK = """
if redis.call('GET', ARGV[1]) == ARGV[2] then return redis.call('DEL', ARGV[1]) end
return 0
"""
