"""Errors of Redis that mean an outage."""

import pytest
import redis

from snf_worker.broker.connection import translate_redis_errors
from snf_worker.errors import BrokerDown

MISCONF = "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk."


@pytest.mark.parametrize(
    "error",
    [
        redis.ResponseError(MISCONF),
        redis.ResponseError(f"Command # 1 (SADD workers a:1) of pipeline caused error: {MISCONF}"),
        redis.ResponseError(f"Error running script (call to f_1): @user_script:9: -{MISCONF}"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
    ],
)
def test_a_server_that_takes_no_writes_is_down(error: Exception) -> None:
    with pytest.raises(BrokerDown, match="takes no writes"), translate_redis_errors():
        raise error


def test_an_argument_of_a_wrong_command_is_no_outage() -> None:
    error = redis.ResponseError("Command # 1 (SADD k 'READONLY OOM') of pipeline caused error: WRONGTYPE no set")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"), translate_redis_errors():
        raise error
