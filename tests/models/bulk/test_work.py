"""Bulk scorings as they are handed to processes of other machines."""

import shutil
from pathlib import Path

import pytest

from models.artifacts.at_location import cached_artifact, write_artifact
from models.artifacts.manifest import FILE
from models.bulk.work import MAX_FETCHED_BYTES, ModelFiles
from models.errors import ArtifactError
from models.locations.location import Location
from models.scorer import Scorer
from models.scoring.options import EngineOptions


def test_a_machine_without_the_model_fetches_it_from_its_location(artifact: Path, tmp_path: Path) -> None:
    location = Location.parse(str(tmp_path / "shared"))
    write_artifact(artifact, location)
    path = cached_artifact(location, tmp_path / "cache", MAX_FETCHED_BYTES, check=lambda _folder: None)
    files = ModelFiles(path, None, EngineOptions(), location)
    shutil.rmtree(path)
    assert files.load().log_det_digest == Scorer.load(artifact).log_det_digest

    location.child(FILE).write((artifact / FILE).read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"^{location} has another model than when the scoring began$"):
        files.load()
