"""Attempts that are forked: they start in milliseconds."""

from collections.abc import Iterator

import pytest

from tests.support.fork_server import ForkServer, fork_server, forked_attempts


@pytest.fixture
def forked() -> Iterator[ForkServer]:
    """Attempts that supervisors of the test start are forked."""
    with forked_attempts(fork_server()):
        yield fork_server()
