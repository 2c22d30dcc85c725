"""Shards (ranges of images) of a bulk scoring job, which any number of processes claim one by one.

The shards to do are a sorted set in Redis, each with the end of its claim in milliseconds of the Redis clock, 0 for
unclaimed shards. This number is also the token of the claim. A claim that expires frees the shard, so a process that
dies loses none. The result of a shard is a file that appears whole and does not depend on the process that writes it,
so no harm is done if a shard is scored twice.
"""

from collections.abc import Iterable
from typing import Any, cast

import redis

from worker.broker.connection import translate_redis_errors

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
    """Unfinished ranges of images (shards) of a bulk scoring job, kept in Redis.

    Processes claim the shards one by one.

    Every method raises ``BrokerDown`` when Redis does not answer in time.
    """

    def __init__(self, client: redis.Redis, prefix: str, job_id: str) -> None:
        self._client = client
        self._key = f"{prefix}shards:{job_id}"
        self._claim = client.register_script(_CLAIM)
        self._renew = client.register_script(_RENEW)

    def offer(self, shards: Iterable[int]) -> None:
        """Mark shards (ranges of images) of a bulk scoring job as unfinished, so that processes can claim them.

        A shard that is present already keeps its reservation.
        """
        unclaimed = dict.fromkeys(map(str, shards), 0)
        if unclaimed:
            with translate_redis_errors():
                self._client.zadd(self._key, cast(dict[Any, Any], unclaimed), nx=True)

    def claim(self, life_s: float) -> tuple[int, str] | None:
        """Reserve a free shard (range of images) for ``life_s`` seconds, and return its number and a token.

        Returns:
            Number of the shard and token of the claim, or None if no shard is free.
        """
        with translate_redis_errors():
            claim = cast(list[str], self._claim(args=[self._key, int(life_s * 1000)]))
        return (int(claim[0]), claim[1]) if claim else None

    def renew(self, shard: int, token: str, life_s: float) -> str | None:
        """Extend a process's claim on a range of images to ``life_s`` seconds from now, and return a new token.

        The range is called a shard. The token proves the claim, and changes whenever the claim is extended.

        Returns:
            The new token, or None if the claim expired and another process has the shard.
        """
        with translate_redis_errors():
            return cast(str, self._renew(args=[self._key, shard, token, int(life_s * 1000)])) or None

    def release(self, shard: int, token: str) -> None:
        """End the reservation of a shard (range of images) before it expires.

        Another process can then reserve the shard at once.
        """
        self.renew(shard, token, 0)

    def done(self, shard: int) -> None:
        """Remove a finished shard (range of images) from a bulk scoring job's list of unfinished shards.

        A shard is finished when the file with its scores is written.
        """
        with translate_redis_errors():
            self._client.zrem(self._key, str(shard))

    def left(self) -> int:
        """Return the number of unfinished shards (ranges of images), including shards in progress."""
        with translate_redis_errors():
            return self._client.zcard(self._key)

    def has(self, shard: int) -> bool:
        """Return whether a shard (range of images) of a bulk scoring job is still unfinished."""
        with translate_redis_errors():
            return self._client.zscore(self._key, str(shard)) is not None

    def free(self) -> int:
        """Return the number of unfinished shards (ranges of images) that no process has reserved."""
        with translate_redis_errors():
            seconds, microseconds = self._client.time()
            return self._client.zcount(self._key, "-inf", seconds * 1000 + microseconds // 1000)

    def forget(self) -> None:
        """Delete the list of unfinished shards (ranges of images) of the bulk job from Redis."""
        with translate_redis_errors():
            self._client.delete(self._key)
