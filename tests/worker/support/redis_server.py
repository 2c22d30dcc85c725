"""A real Redis server on a socket of its own, where the machine has one."""

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from snf_worker.settings import Settings
from tests.worker.support.helpers import until


def redis_settings(settings: Settings, folder: Path) -> Settings:
    """The settings of a test, with a Redis server to be started on a socket in a folder."""
    return settings.model_copy(update={"redis_url": f"unix://{folder / 'redis.sock'}?db=0"})


def redis_program() -> str:
    """The path of the server's program; a test is skipped where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on this machine (Debian: apt-get install redis-server)")
    return program


class RedisServer:
    """Started and stopped by the test, with the durability that the README asks for."""

    def __init__(self, settings: Settings) -> None:
        self._program = redis_program()
        self._home: Path = settings.home
        self._client = redis.Redis.from_url(str(settings.redis_url))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self._program, "--port", "0", "--unixsocket", str(self._home / "redis.sock")]
        command += ["--dir", str(self._home), "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--maxmemory-policy", "noeviction"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers, 20)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except redis.ConnectionError:
            return False
