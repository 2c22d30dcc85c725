"""What all processes of a test run share."""

import os
import shutil
import tempfile

import pytest

from tests.support.compiled_cache import FOLDER


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder of what is compiled; the processes that pytest-xdist starts inherit its name."""
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="snf-compiled-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER))
