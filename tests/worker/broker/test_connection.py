"""Errors of Redis that mean an outage."""

import os
from pathlib import Path

import pytest
import redis
from kombu.connection import Connection
from kombu.utils.url import url_to_parts

from snf_worker.broker.connection import broker_url, celery_url, redis_client, socket_path, translate_redis_errors
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerDown, BrokerStartFailed
from snf_worker.jobs.record import Queue
from snf_worker.jobs.submission import make_celery, queue_key, wake
from snf_worker.settings import Settings

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


def test_urls(tmp_path: Path) -> None:
    embedded = Settings(home=tmp_path, runtime_dir=Path("/tmp/r"), redis_url=None)
    assert broker_url(embedded) == "unix:///tmp/r/broker.sock?db=0"
    assert celery_url(embedded) == "redis+socket:///tmp/r/broker.sock?virtual_host=0"
    external = Settings(home=tmp_path, redis_url="redis://host:6379/4")
    assert broker_url(external) == celery_url(external) == "redis://host:6379/4"


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41", "a;b", "a b", "ä"])
def test_urls_lead_to_the_socket_whatever_its_folder_is_called(name: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, runtime_dir=Path("/tmp") / name, redis_url=None)
    client = redis_client(settings)
    assert client.connection_pool.connection_kwargs["path"] == str(socket_path(settings))
    of_kombu = url_to_parts(Connection(celery_url(settings)).hostname)
    assert f"/{of_kombu.path}" == str(socket_path(settings))


def test_all_clients_reach_a_server_in_a_folder_with_characters_of_urls(settings: Settings, home: Path) -> None:
    odd = settings.model_copy(update={"runtime_dir": home / "a#b?c%41;d"})
    broker = EmbeddedBroker(odd)
    try:
        assert broker.start(timeout=20) == "started"
        assert broker.alive()
        wake(make_celery(odd), Queue.SCORE)
        assert redis_client(odd).llen(queue_key(odd, Queue.SCORE)) == 1
    finally:
        broker.stop()


def test_a_home_may_have_blanks_and_quotes_in_its_name(settings: Settings, home: Path) -> None:
    odd = settings.model_copy(update={"home": home / 'my home\'s "x" \\ #1 \u00e4'})
    for starts in (1, 2):
        broker = EmbeddedBroker(odd)
        try:
            assert broker.start(timeout=20) == "started"
            assert EmbeddedBroker(odd).start() == "attached"
            assert redis_client(odd).incr("starts") == starts
        finally:
            broker.stop()
    assert not list(odd.runtime_folder.glob("broker.data"))


def test_a_socket_path_that_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerStartFailed, match=r"UTF-8.*SNF_RUNTIME_DIR"):
        socket_path(Settings(home=tmp_path, runtime_dir=Path(os.fsdecode(b"/tmp/\xff"))))


def test_an_earlier_socket_path_that_is_no_text_does_not_stop_the_broker(settings: Settings) -> None:
    (settings.home / "broker").mkdir()
    (settings.home / "broker" / "socket").write_bytes(b"/tmp/\xff/broker.sock")
    broker = EmbeddedBroker(settings)
    assert broker.start() == "started"
    broker.stop()


def test_a_socket_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerStartFailed, match="SNF_RUNTIME_DIR"):
        socket_path(Settings(home=tmp_path, runtime_dir=tmp_path / ("x" * 100)))
