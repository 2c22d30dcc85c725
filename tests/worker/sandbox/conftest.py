"""Sandboxes as users have them: new processes."""

import pytest

from tests.support import sandboxes


@pytest.fixture(autouse=True)
def new_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sandboxes.NEW, "1")
