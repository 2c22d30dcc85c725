"""The monitor of the job store goes on after any error of the store."""

import logging
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from redis.exceptions import ResponseError

from app.jobs import store_monitor
from app.jobs.store_monitor import JobStoreMonitor
from worker.errors import BrokerDown


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("error", [BrokerDown("no answer"), ResponseError("BUSY Redis is busy running a script")])
def test_the_store_answers_again_after_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_monitor, "PING_S", 0.01)
    errors: list[Exception] = []

    def ping() -> None:
        if errors:
            raise errors[0]

    store = SimpleNamespace(ping=ping, lines=SimpleNamespace(length=lambda _queue: 0))
    monitor = JobStoreMonitor(store)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        monitor.start()
        try:
            until(lambda: monitor.answers)
            errors.append(error)
            until(lambda: not monitor.answers)
            errors.clear()
            until(lambda: monitor.answers)
        finally:
            monitor.stop()
    assert ("the job store could not be checked" in caplog.messages) == isinstance(error, ResponseError)
