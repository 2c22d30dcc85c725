"""What tests of commands share."""

from pathlib import Path

import pytest

from tests.support.compiled_cache import share_compiled


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `SNF_HOME` in a folder, which is returned, and no service and no image sets in the environment."""
    for name in ("SNF_URL", "SNF_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SNF_HOME", str(share_compiled(tmp_path / "home")))
    return tmp_path
