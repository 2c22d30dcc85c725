import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from snf_worker.broker.runtime_folder import check_runtime_folder
from snf_worker.errors import BrokerDown, BrokerStartFailed
from snf_worker.settings import Settings

# A sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
_MAX_SOCKET_PATH_BYTES = 103
_FULL = redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError
_TAKES_NO_WRITES = re.compile(r"\b(OOM|MISCONF|READONLY|NOREPLICAS)\b")
_PIPELINE = " of pipeline caused error: "
"""redis-py writes the command before this text, and the error of the server after it."""


def socket_path(settings: Settings) -> Path:
    """Return the embedded server's Unix socket; raise ``BrokerStartFailed`` if the path cannot serve as one."""
    path = settings.runtime_folder / "broker.sock"
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BrokerStartFailed(
            f"the path of the broker's socket must be UTF-8 text, got {str(path)!a}; set SNF_RUNTIME_DIR to "
            "another folder"
        ) from error
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise BrokerStartFailed(
            f"the path of the broker's socket may take {_MAX_SOCKET_PATH_BYTES} bytes, got "
            f"{len(os.fsencode(path))}: {path}; set SNF_RUNTIME_DIR to a shorter folder"
        )
    check_runtime_folder(path.parent)
    return path


def broker_url(settings: Settings) -> str:
    """Return the URL for redis-py, with the password if there is a file; raise ``BrokerStartFailed``."""
    if settings.redis_url is None:
        # A plain # or ? would end the path, and clients would connect to another socket.
        return f"unix://{quote(str(socket_path(settings)))}?db=0"
    if settings.redis_password_file is None:
        return settings.redis_url
    parts = urlsplit(settings.redis_url)
    password = quote(_password(settings.redis_password_file), safe="")
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{password}@{host}").geturl()


def _password(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerStartFailed(f"the password of Redis cannot be read from {file}: {error}") from error
    if not password:
        raise BrokerStartFailed(f"expected the password of Redis in {file}, got an empty file")
    return password


def celery_url(settings: Settings) -> str:
    """Return the URL for Celery, where a Unix socket has the scheme ``redis+socket``."""
    url = broker_url(settings)
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    query = parse_qs(parts.query)
    database = query.get("db", ["0"])[0]
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"


def redis_client(settings: Settings) -> redis.Redis:
    """Return a Redis client that decodes answers and tries twice for ``broker_timeout_s`` seconds each."""
    return redis.Redis.from_url(
        broker_url(settings),
        decode_responses=True,
        socket_timeout=settings.broker_timeout_s,
        socket_connect_timeout=settings.broker_timeout_s,
        health_check_interval=25,
        # One retry: enough for a connection that died while idle, and bounded for callers who wait.
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.05), 1),
    )


@contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Raise ``BrokerDown`` for Redis errors that mean an outage; other errors pass unchanged."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise BrokerDown(
            f"the job store expects another password than that of REDIS_URL or SNF_REDIS_PASSWORD_FILE: {error}"
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise BrokerDown(f"the job store does not answer: {error}") from error
    except redis.ResponseError as error:
        # Full memory, a full disk, a replica: callers can do no more than in an outage.
        said = str(error).rpartition(_PIPELINE)[2]
        if not isinstance(error, _FULL) and not _TAKES_NO_WRITES.search(said):
            raise
        raise BrokerDown(f"the job store takes no writes: {error}") from error


def durability_risks(client: redis.Redis) -> list[str]:
    """Return a sentence with the remedy for each Redis setting with which accepted jobs may be lost."""
    with translate_redis_errors():
        info = client.info()
    risks = []
    if not info.get("aof_enabled"):
        risks.append("jobs accepted in the last minutes are lost when it dies: set appendonly yes")
    if info.get("maxmemory_policy") != "noeviction":
        risks.append("it may throw jobs away when its memory is full: set maxmemory-policy noeviction")
    return risks
