"""Shards of a bulk job: any number of processes take them one by one, and one that dies loses none.

A sorted set of the shards that are still to do, each with the end of its claim in milliseconds of the Redis clock
(0: nobody's). That number is the claim's token. A shard's result is a file that appears whole, and the same whoever
writes it, so a shard that is done twice does no harm and needs no fence.
"""

from collections.abc import Iterable
from typing import Any, cast

import redis

from worker.broker.connection import translate_redis_errors

# ARGV: key, life in ms. Answers {shard, token}, or {} where nothing is free.
_CLAIM = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local free = redis.call('ZRANGEBYSCORE', ARGV[1], '-inf', now, 'LIMIT', 0, 1)
if #free == 0 then return {} end
local token = string.format('%.0f', now + ARGV[2])
redis.call('ZADD', ARGV[1], token, free[1])
return {free[1], token}
"""

# ARGV: key, shard, token, life in ms. Answers the new token, or '' where the claim is another's by now.
_RENEW = """
local score = redis.call('ZSCORE', ARGV[1], ARGV[2])
if not score or tonumber(score) ~= tonumber(ARGV[3]) then return '' end
local clock = redis.call('TIME')
local token = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[4])
redis.call('ZADD', ARGV[1], token, ARGV[2])
return token
"""


class Shards:
    """The shards of one job that are still to do; every method raises `BrokerDown` in an outage."""

    def __init__(self, client: redis.Redis, prefix: str, job_id: str) -> None:
        self._client = client
        self._key = f"{prefix}shards:{job_id}"
        self._claim = client.register_script(_CLAIM)
        self._renew = client.register_script(_RENEW)

    def offer(self, shards: Iterable[int]) -> None:
        """Makes shards available; those that are there already keep their claim."""
        found = dict.fromkeys(map(str, shards), 0)
        if found:
            with translate_redis_errors():
                self._client.zadd(self._key, cast(dict[Any, Any], found), nx=True)

    def claim(self, life_s: float) -> tuple[int, str] | None:
        """Takes the first free shard for `life_s`: its number and the claim's token; None where none is free."""
        with translate_redis_errors():
            found = cast(list[str], self._claim(args=[self._key, int(life_s * 1000)]))
        return (int(found[0]), found[1]) if found else None

    def renew(self, shard: int, token: str, life_s: float) -> str | None:
        """Prolongs a claim and answers its new token; None where it ended and another process has the shard."""
        with translate_redis_errors():
            return cast(str, self._renew(args=[self._key, shard, token, int(life_s * 1000)])) or None

    def release(self, shard: int, token: str) -> None:
        """Gives a claim back, where it is still held, so that nobody waits for its end."""
        self.renew(shard, token, 0)

    def done(self, shard: int) -> None:
        """Takes a shard off the list: its result is written."""
        with translate_redis_errors():
            self._client.zrem(self._key, str(shard))

    def left(self) -> int:
        """How many shards are still to do, the claimed ones included."""
        with translate_redis_errors():
            return self._client.zcard(self._key)

    def free(self) -> int:
        """How many shards nobody has claimed."""
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
            return self._client.zcount(self._key, "-inf", seconds * 1000 + microseconds // 1000)

    def forget(self) -> None:
        """Removes the list."""
        with translate_redis_errors():
            self._client.delete(self._key)
