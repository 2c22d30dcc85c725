"""Fixtures that all tests here share."""

from pathlib import Path

import pytest

from snf_models.scorer import Scorer, load_model
from tests.support.artifact import artifact, copy, scorer
from tests.support.compiled_cache import compiled
from tests.support.trained import feature_artifact, hybrid_artifact

__all__ = ["artifact", "copy", "features", "hybrid", "scorer"]


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Scorer:
    """A model of features of real digits."""
    return load_model(feature_artifact(tmp_path_factory), options=compiled(backbones=backbones))


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Scorer:
    """A model of pixels and features of real digits."""
    return load_model(hybrid_artifact(tmp_path_factory), options=compiled(backbones=backbones))
