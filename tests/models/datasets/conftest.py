"""A store of datasets, for the tests of this folder."""

from pathlib import Path

import pytest

from snf_models.datasets import DatasetStore


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "home" / "datasets")
