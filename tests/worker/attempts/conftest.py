"""Attempts that are forked: they start in milliseconds."""

import threading
from collections.abc import Iterator

import pytest

from tests.support.fork_server import ForkServer, fork_server, forked_attempts
from worker.jobs.store import JobStore
from worker.runtime.supervisor import Supervisor
from worker.settings import Settings


@pytest.fixture
def forked() -> Iterator[ForkServer]:
    """Attempts that supervisors of the test start are forked."""
    with forked_attempts(fork_server()):
        yield fork_server()


@pytest.fixture
def real(store: JobStore, settings: Settings, stopping: threading.Event) -> Supervisor:
    return Supervisor(store, settings, stopping)
