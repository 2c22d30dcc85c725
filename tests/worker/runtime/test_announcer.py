"""The thread that announces a worker survives every fault."""

import logging
from typing import cast

import pytest

from snf_worker.jobs.worker_registry import Heartbeat, WorkerInfo, WorkerRegistry
from snf_worker.settings import Settings
from tests.worker.support.helpers import until


class Registry:
    """A registry whose first entry fails."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self._faults = iter([ValueError("a fault of the registry")])

    def announce(self, worker: WorkerInfo, _life_s: float) -> None:
        for fault in self._faults:
            raise fault
        self.announced.append(worker.name)

    def withdraw(self, name: str) -> None:
        self.announced = [other for other in self.announced if other != name]


def test_it_goes_on_after_a_fault_of_job_or_registry(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    jobs = iter([ValueError("a fault of the job")])

    def job() -> None:
        for fault in jobs:
            raise fault

    hasty = Settings(heartbeat_seconds=0.001)
    announcer = Heartbeat(cast(WorkerRegistry, registry), hasty, name="me", device="cpu", queues=[], job=job)
    with caplog.at_level(logging.ERROR):
        announcer.start()
        until(lambda: registry.announced, 10)
        announcer.stop()
    assert registry.announced == []
    assert caplog.text.count("this worker could not be announced") == 2
    assert "a fault of the job" in caplog.text
    assert "a fault of the registry" in caplog.text
