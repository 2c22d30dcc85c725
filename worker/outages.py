"""An outage of the server, told the same way whatever the Redis client says of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from worker.problems import BrokerDown


@contextmanager
def outages() -> Iterator[None]:
    """Raises `BrokerDown` for a server that cannot be reached or does not answer in time."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise BrokerDown(f"the job store does not answer: {error}") from error
