import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.client import Pipeline
from redis.retry import Retry

from snf_worker.errors import BrokerDown, BrokerStartFailed
from snf_worker.settings import Settings


def check_runtime_folder(folder: Path) -> None:
    """Raise ``BrokerStartFailed`` if another user can change the runtime folder; it need not exist."""
    with suppress(FileNotFoundError):
        _check(folder, folder.lstat())


def make_runtime_folder(folder: Path) -> None:
    """Create the runtime folder for its owner only, or check an existing one."""
    with suppress(FileExistsError):  # also for a link
        folder.mkdir(mode=0o700, parents=True)
    check_runtime_folder(folder)


@contextmanager
def runtime_folder_in_use(settings: Settings) -> Iterator[None]:
    """Hold the socket's folder during the block. The last process removes it, unless a setting names it."""
    if settings.redis_url is not None:
        yield
        return
    folder = settings.runtime_folder
    descriptor = _open_shared(folder)
    try:
        yield
    finally:
        if settings.runtime_dir is None:
            with suppress(OSError):  # another process keeps it, or it is not empty
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder.rmdir()
        os.close(descriptor)


def _open_shared(folder: Path) -> int:
    """Open the folder, which is created where it is missing, with a shared lock; return the file descriptor."""
    while True:
        make_runtime_folder(folder)
        with suppress(FileNotFoundError):  # the process that kept it last has removed it meanwhile
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(folder, descriptor):
                return descriptor
            os.close(descriptor)


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.lstat())
    except FileNotFoundError:
        return False


def _check(folder: Path, state: os.stat_result) -> None:
    mode = stat.S_IMODE(state.st_mode)
    if not stat.S_ISDIR(state.st_mode):
        problem = "is a symbolic link" if stat.S_ISLNK(state.st_mode) else "is a file"
    elif state.st_uid != os.getuid():
        problem = f"belongs to another user (uid {state.st_uid})"
    elif mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"may be changed by other users (mode {mode:o})"
    else:
        return
    raise BrokerStartFailed(
        f"expected a runtime folder of uid {os.getuid()} that no other user may change, but {folder} {problem}; remove "
        "it, or set SNF_RUNTIME_DIR to a folder of your own"
    )


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


class JobsClient(redis.Redis):
    """Redis client that raises ``BrokerDown`` in an outage."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        execute: Any = super().execute_command  # redis declares no types for it
        with translate_redis_errors():
            return execute(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _JobsPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _JobsPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with translate_redis_errors():
            return super().execute(raise_on_error)


def redis_client(settings: Settings, kind: type[redis.Redis] = JobsClient) -> redis.Redis:
    """Return a Redis client that decodes answers and tries twice for ``broker_timeout_s`` seconds each."""
    return kind.from_url(
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
    info: Any = client.info()
    risks = []
    if not info.get("aof_enabled"):
        risks.append("jobs accepted in the last minutes are lost when it dies: set appendonly yes")
    if info.get("maxmemory_policy") != "noeviction":
        risks.append("it may throw jobs away when its memory is full: set maxmemory-policy noeviction")
    return risks
