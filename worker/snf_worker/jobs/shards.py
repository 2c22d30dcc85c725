"""Shards of a bulk scoring job in Redis, with the end of each claim in ms, 0 for unclaimed; it is the claim's token."""

from collections.abc import Iterable
from typing import Any, cast

import redis

from snf_worker.broker.connection import translate_redis_errors

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
