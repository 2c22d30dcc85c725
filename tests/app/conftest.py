"""What several tests of the service share."""

from functools import partial
from pathlib import Path

import pytest

from models.registry.registry import Registry


@pytest.fixture
def no_shipped_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Services that a test starts in its own process have no shipped models, which takes each of them a second."""
    monkeypatch.setattr("app.state.Registry", partial(Registry, zoo=tmp_path / "none"))
