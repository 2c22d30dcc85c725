"""Attempts that are forked: they start in milliseconds."""

from collections.abc import Iterator

import pytest

from tests.support.fork_server import ForkServer, forked_attempts


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def forked(fork_server: ForkServer) -> Iterator[None]:
    """Attempts that supervisors of the test start are forked."""
    with forked_attempts(fork_server):
        yield
