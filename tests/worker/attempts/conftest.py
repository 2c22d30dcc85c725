"""Attempts that are forked: they start in milliseconds."""

import threading
from collections.abc import Iterator

import pytest

from snf_models.registry.registry import Registry
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Supervisor
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer, fork_server, forked_attempts
from tests.support.trained import barely_trained


@pytest.fixture
def forked() -> Iterator[ForkServer]:
    """Attempts that supervisors of the test start are forked."""
    with forked_attempts(fork_server()):
        yield fork_server()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The engine that starts in the least time."""
    return settings.model_copy(update={"engine": "torch"})


@pytest.fixture
def real(store: JobStore, settings: Settings, stopping: threading.Event) -> Supervisor:
    return Supervisor(store, settings, stopping)


@pytest.fixture
def digits(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The model that `scoring` names, which scores an image in the least time. OpenVINO cannot run it."""
    Registry(settings.registry_dir).publish(barely_trained(tmp_path_factory, preset="snf-fc-2l"), "digits")
