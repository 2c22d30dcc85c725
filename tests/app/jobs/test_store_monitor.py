"""The monitor of the job store goes on after any error of the store."""

import logging
from types import SimpleNamespace
from typing import cast

import pytest
from redis.exceptions import ResponseError

from snf_app.jobs import service
from snf_app.jobs.service import JobStoreMonitor
from snf_worker.errors import BrokerDown
from snf_worker.jobs.store import JobStore
from tests.worker.support.helpers import until


@pytest.mark.parametrize("error", [BrokerDown("no answer"), ResponseError("BUSY Redis is busy running a script")])
def test_the_store_answers_again_after_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "PING_S", 0.01)
    errors: list[Exception] = []

    def ping() -> None:
        if errors:
            raise errors[0]

    store = SimpleNamespace(ping=ping, waiting=lambda _queue: 0)
    monitor = JobStoreMonitor(cast(JobStore, store))
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
