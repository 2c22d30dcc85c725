"""One barely trained artifact for the whole session, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.datasets import load_dataset
from models.scorer import Scorer
from models.training.run import train
from tests.models.helpers import QUICK


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete artifact of real digits, by the training that users run. Never write to it."""
    return train(
        load_dataset("mnist-mini", None),
        "snf-glow-tiny",
        QUICK,
        tmp_path_factory.mktemp("training"),
        observe=lambda _event: None,
        should_stop=lambda: False,
    )


@pytest.fixture(scope="session")
def scorer(artifact: Path) -> Scorer:
    """The artifact, loaded."""
    return Scorer.load(artifact)


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact that a test may damage."""
    return Path(shutil.copytree(artifact, tmp_path / "copy"))
