"""An outage of the server, told the same way whatever the Redis client says of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from worker.errors import BrokerDown

_FULL = redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError
_TAKES_NO_WRITES = "OOM", "MISCONF", "READONLY"


@contextmanager
def outages() -> Iterator[None]:
    """Raises `BrokerDown` for a server that cannot be reached, does not answer in time, or takes no writes."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise BrokerDown(f"the job store does not answer: {error}") from error
    except redis.ResponseError as error:
        # Full memory, a full disk, a replica: for everyone here the same as a server that is not there.
        if not str(error).startswith(_TAKES_NO_WRITES) and not isinstance(error, _FULL):
            raise
        raise BrokerDown(f"the job store takes no writes: {error}") from error
