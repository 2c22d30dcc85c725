"""Fixtures of one barely trained artifact for the whole session, and of copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from snf_models.scorer import Scorer, load_model
from tests.support.trained import barely_trained


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete artifact of real digits, by the training that users run. Never write to it."""
    return barely_trained(tmp_path_factory)


@pytest.fixture(scope="session")
def scorer(artifact: Path) -> Scorer:
    """The artifact, loaded."""
    return load_model(artifact)


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact that a test may damage."""
    return Path(shutil.copytree(artifact, tmp_path / "copy"))
