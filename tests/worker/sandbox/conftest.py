"""Sandboxes as users have them."""

import pytest

from tests.support import sandboxes


@pytest.fixture
def new_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandboxes of a test are new processes: where limits are reached, and once in each file. All others are forks."""
    monkeypatch.setenv(sandboxes.NEW, "1")
