"""A registry with one model, for the tests of this folder."""

from pathlib import Path

import pytest

from snf_models.registry.calibrations import CalibrationStore
from snf_models.registry.registry import Registry


@pytest.fixture
def registry(artifact: Path, tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry", zoo=tmp_path / "zoo")
    registry.publish(artifact, "digits")
    return registry


@pytest.fixture
def calibrations(registry: Registry) -> CalibrationStore:
    return registry.calibrations("digits", 1)
