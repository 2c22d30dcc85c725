"""The password of a Redis server in a file: its place in the URLs, and what is wrong with it."""

from pathlib import Path

import pytest

from snf_worker.broker.connection import broker_url, celery_url, redis_client
from snf_worker.errors import BrokerStartFailed
from snf_worker.settings import Settings


@pytest.mark.parametrize(
    ("url", "with_password"),
    [
        ("redis://redis:6379/0", "redis://:a%2Fb%40c@redis:6379/0"),
        ("rediss://jobs@redis/1", "rediss://jobs:a%2Fb%40c@redis/1"),
        ("unix:///run/redis.sock?db=2", "unix://:a%2Fb%40c@/run/redis.sock?db=2"),
    ],
)
def test_it_is_part_of_the_url(url: str, with_password: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a/b@c\n")
    settings = Settings(redis_url=url, redis_password_file=tmp_path / "password")
    assert broker_url(settings) == with_password
    options = redis_client(settings).get_connection_kwargs()
    assert options["password"] == "a/b@c"
    assert ":a%2Fb%40c@" in celery_url(settings)
    assert not any("a/b" in value or "a%2F" in value for value in settings.environment().values())


def test_a_password_stands_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got both"):
        Settings(redis_url="redis://:secret@h/0", redis_password_file=tmp_path / "password")


def test_a_missing_password_is_a_sentence(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis://h/0", redis_password_file=tmp_path / "password")
    with pytest.raises(BrokerStartFailed, match="password"):
        redis_client(settings)
    (tmp_path / "password").touch()
    with pytest.raises(BrokerStartFailed, match="empty"):
        redis_client(settings)
