"""Bulk scorings as they are handed to processes of other machines."""

import shutil
from pathlib import Path

import pytest

from snf_models.artifacts.files import cached_artifact, write_artifact
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.bulk.engine_choice import choose_engine
from snf_models.bulk.output import Output
from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.sources import DatasetImages
from snf_models.bulk.work import BulkWork
from snf_models.errors import ArtifactError, EngineUnavailable
from snf_models.loading.model_files import MAX_FETCHED_BYTES, ModelFiles, content_digest
from snf_models.locations.location import Location
from snf_models.scorer import load_files
from snf_models.scoring.options import EngineOptions
from tests.support.compiled_cache import compiled


def work_of(files: ModelFiles, folder: Path) -> tuple[BulkPlan, DatasetImages]:
    manifest = read_manifest(files.path)
    images = DatasetImages("mnist-mini", None, folder)
    plan = BulkPlan(
        model="digits:1",
        weights_sha256=manifest.log_dets.weights_sha256,
        dataset="mnist-mini",
        source_digest=images.open(manifest.preprocessing).digest,
        alpha=0.05,
        count=600,
        model_sha256=content_digest(files.path, files.calibration),
        precision="float32",
    )
    return plan, images


def test_all_processes_of_a_scoring_compute_by_the_engine_that_began_it(artifact: Path, tmp_path: Path) -> None:
    files = ModelFiles(artifact, None, compiled())
    plan, images = work_of(files, tmp_path)
    begun, chosen = choose_engine(plan, files, None)
    assert begun.engine == chosen.options.name == load_files(files).engine_name
    assert begun != plan

    other = "torch" if begun.engine == "openvino" else "openvino"
    earlier = begun.model_copy(update={"engine": other})
    resumed, chosen = choose_engine(plan, files, earlier)
    assert (resumed, chosen.options.name) == (earlier, other)
    assert choose_engine(plan, files, earlier.model_copy(update={"alpha": 0.1}))[0] == begun
    on_gpu = ModelFiles(artifact, None, EngineOptions(device="cuda:0"))
    assert choose_engine(plan, on_gpu, None)[0].engine == "torch"

    output = Output(Location.parse(str(tmp_path / "scores")), earlier)
    with pytest.raises(EngineUnavailable, match=f"computed by {other}, which this machine cannot: it computes by "):
        BulkWork(output, files, images).open()


def test_a_model_that_changed_is_not_that_of_the_plan(copy: Path, tmp_path: Path) -> None:
    """Its weights are the same, so that these alone would not show it."""
    files = ModelFiles(copy, None, compiled())
    plan, images = work_of(files, tmp_path)
    plan, files = choose_engine(plan, files, None)
    (copy / FILE).write_bytes((copy / FILE).read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="has changed: expected SHA-256"):
        BulkWork(Output(Location.parse(str(tmp_path / "scores")), plan), files, images).open()


def test_a_machine_without_the_model_fetches_it_from_its_location(artifact: Path, tmp_path: Path) -> None:
    location = Location.parse(str(tmp_path / "shared"))
    write_artifact(artifact, location)
    path = cached_artifact(location, tmp_path / "cache", MAX_FETCHED_BYTES, check=lambda _folder: None)
    files = ModelFiles(path, None, compiled(), location)
    shutil.rmtree(path)
    assert load_files(files).log_det_digest == read_manifest(artifact).log_dets.weights_sha256

    location.child(FILE).write((artifact / FILE).read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"^{location} has another model than when the scoring began$"):
        load_files(files)
