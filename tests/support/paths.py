"""Places in this checkout that tests read, and the folder that the processes of a test run share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT_PATH = os.pathsep.join(
    str(folder) for folder in (ROOT, *(ROOT / name for name in ("app", "worker", "models", "client", "runtime")))
)
"""``PYTHONPATH`` of a process that imports the packages of this checkout."""
DATA = ROOT / "tests" / "data"
DIGITS = sorted((DATA / "mnist").glob("*.png"))


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all processes of a test run."""
    run = factory.getbasetemp()
    # Each process of pytest-xdist has a folder in that of the run.
    return run.parent if run.name.startswith("popen-") else run
