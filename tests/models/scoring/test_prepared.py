"""A model that was opened before is opened without torch, and gives the same bits; a damaged file is made again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from snf_models.audit import audit
from snf_models.datasets import load_dataset
from snf_models.errors import ArtifactError, BackboneMissing, StorageFull
from snf_models.loading.prepared import PreparedFile
from snf_models.loading.trained import LoadedFlows, load_artifact
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.cache import DIGEST_BYTES, write_cached
from snf_models.threads import thread_count
from snf_runtime import parallelism
from snf_runtime.scoring.likelihood import score_images
from tests.models.helpers import edit_manifest, flip_a_byte
from tests.models.scoring.scored_bits import bits_of
from tests.support.backbones import backbone_folder
from tests.support.paths import ROOT
from tests.support.tiled import mosaic, tiled_artifact
from tests.support.trained import barely_trained, hybrid_artifact

SHIPPED = ROOT / "models" / "snf_models" / "zoo" / "mnist-snf-glow" / "1"
IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from tests.models.scoring.scored_bits import bits_of
cache, folder = map(Path, sys.argv[1:])
print(bits_of(load_model(folder, options=EngineOptions(threads=2, cache=cache))))
print("torch" in sys.modules)
"""


def tiled(factory: pytest.TempPathFactory) -> Path:
    return tiled_artifact(factory)[0]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, artifact: Path) -> EngineOptions:
    """Options with a cache in which a model of pixels was opened. Never write to it."""
    made = EngineOptions(threads=2, cache=tmp_path_factory.mktemp("cache"), backbones=backbone_folder(tmp_path_factory))
    load_model(artifact, options=made)
    return made


@pytest.fixture
def copied(options: EngineOptions, tmp_path: Path) -> EngineOptions:
    """The same with a copy of the cache that a test may damage."""
    assert options.cache is not None
    return replace(options, cache=Path(shutil.copytree(options.cache, tmp_path / "cache")))


def scores_of(scorer: Scorer) -> list[float]:
    return [score.log_likelihood for score in scorer.score(load_dataset("mnist-mini", None).test[:9])]


@pytest.fixture(scope="module")
def expected(options: EngineOptions, artifact: Path) -> list[float]:
    """Scores of the model that is in the cache."""
    return scores_of(load_model(artifact, options=options))


def record_in(options: EngineOptions) -> Path:
    assert options.cache is not None
    (path,) = options.cache.glob("*.density")
    return path


def change_record(options: EngineOptions, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record as someone who knows its format would."""
    path = record_in(options)
    document = json.loads(path.read_bytes()[DIGEST_BYTES:])
    change(document)
    write_cached(path, json.dumps(document).encode())


def test_a_shipped_model_scores_in_a_process_without_torch(tmp_path: Path) -> None:
    trained = load_model(SHIPPED, options=EngineOptions(threads=2, cache=tmp_path))
    assert trained.is_flow_loaded
    expected = bits_of(trained)
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path), str(SHIPPED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"], done.stderr


@pytest.mark.parametrize("kind", [hybrid_artifact, tiled])
def test_models_of_features_give_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    options: EngineOptions,
    kind: Callable[[pytest.TempPathFactory], Path],
) -> None:
    artifact, options = kind(tmp_path_factory), replace(options, cache=tmp_path)
    first, second = (load_model(artifact, options=options) for _ in range(2))
    assert (first.is_flow_loaded, second.is_flow_loaded) == (True, False)
    images = [mosaic(number) for number in range(3)] if kind is tiled else load_dataset("mnist-mini", None).test[:9]
    assert bits_of(second, images) == bits_of(first, images)
    assert not second.is_flow_loaded
    assert second.has_learned_inverse == first.has_learned_inverse
    for name in ("micro_batch", "dimensions", "statistics", "constant_log_det", "engine_name", "chunk_size"):
        assert getattr(second.density, name) == getattr(first.density, name), name
    with pytest.raises(BackboneMissing):
        load_model(artifact, options=replace(options, backbones=tmp_path / "none"))


def test_bfloat16_gives_the_same_bits(artifact: Path, copied: EngineOptions) -> None:
    loaded = load_artifact(artifact)
    images = load_dataset("mnist-mini", None).test[:9]
    scores = {}
    for precision in ("float32", "bfloat16"):
        options = replace(copied, precision=precision)
        file = PreparedFile(loaded.manifest, options)
        file.path.unlink(missing_ok=True)
        trained = LoadedFlows(loaded, options).density
        file.keep(trained)
        prepared = file.open()
        assert prepared.precision == precision

        scores[precision] = [score.log_likelihood for score in score_images(prepared, images)]
        assert scores[precision] == [score.log_likelihood for score in score_images(trained, images)]
    assert scores["float32"] != scores["bfloat16"]
    assert len(list(copied.cache.glob("*.density"))) == 2


def test_samples_and_audits_load_the_flows(artifact: Path, options: EngineOptions) -> None:
    whole = Scorer.of(load_artifact(artifact), options=options)
    uses: list[Callable[[Scorer], object]] = [
        lambda scorer: scorer.sample(3, seed=1).tolist(),
        lambda scorer: scorer.sample(3, seed=1, inverse="learned").tolist(),
        lambda scorer: audit(scorer, 0).log_dets,
    ]
    for use in uses:
        scorer = load_model(artifact, options=options)
        assert not scorer.is_flow_loaded
        assert use(scorer) == use(whole)
        assert scorer.is_flow_loaded


def test_flows_of_other_files_are_not_loaded_later(artifact: Path, tmp_path: Path, options: EngineOptions) -> None:
    artifact = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    scorer = load_model(artifact, options=options)
    edit_manifest(artifact, lambda document: document["training"].update(steps=9))
    with pytest.raises(ArtifactError, match="has changed since the model was loaded"):
        scorer.sample(1)
    (artifact / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="does not have the SHA-256"):
        scorer.sample(1)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _foreign_graphs(path: Path) -> None:
    for blob in path.parent.glob("*.blob"):
        write_cached(blob, b"no graph")


@pytest.mark.parametrize(
    ("damage", "log"),
    [
        (flip_a_byte, "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (_folder, "cannot be read"),
        (lambda path: write_cached(path, b"{}"), "expected 'pixels' in the file"),
        (lambda path: write_cached(path, b"\x80\x04."), "is not used"),
        (lambda path: write_cached(path, b"[" * 100_000), "is not used"),
        (lambda path: [blob.unlink() for blob in path.parent.glob("*.blob")], "cannot be used"),
        (lambda path: [blob.write_bytes(b"x" * 99) for blob in path.parent.glob("*.blob")], "is damaged"),
        (_foreign_graphs, "cannot be used"),
    ],
    ids=["flipped", "empty", "folder", "members", "pickle", "deep", "no-graphs", "damaged-graphs", "foreign"],
)
def test_damaged_files_are_made_again(
    artifact: Path,
    copied: EngineOptions,
    expected: list[float],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
    log: str,
) -> None:
    path = record_in(copied)
    damage(path)
    scorer = load_model(artifact, options=copied)
    assert scorer.is_flow_loaded
    assert scores_of(scorer) == expected
    assert log in caplog.text
    if not path.is_dir():
        assert not load_model(artifact, options=copied).is_flow_loaded, "it was made again"


def test_a_record_of_another_density_is_not_used(
    artifact: Path, copied: EngineOptions, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    level = ("pixels", "flow", "levels", 0)

    def shift(document: dict[str, Any]) -> None:
        part: Any = document
        for key in level:
            part = part[key]
        part["constant_log_det"] += 0.01

    change_record(copied, shift)
    scorer = load_model(artifact, options=copied)
    assert scorer.is_flow_loaded
    assert "the pinned image scores" in caplog.text
    assert scores_of(scorer) == expected
    assert not load_model(artifact, options=copied).is_flow_loaded


def test_without_the_graph_for_many_images_they_are_scored_one_by_one(
    artifact: Path, copied: EngineOptions, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    scorer = load_model(artifact, options=copied)
    parallel = json.loads(record_in(copied).read_bytes()[DIGEST_BYTES:])["pixels"]["program"]["parallel"]
    (copied.cache / f"{parallel}.blob").write_bytes(b"")
    assert scores_of(scorer) == expected
    assert not scorer.is_flow_loaded
    assert "images are scored one by one" in caplog.text
    assert not list(copied.cache.glob("*.density")), "the next load makes both again"
    assert load_model(artifact, options=copied).is_flow_loaded
    assert not load_model(artifact, options=copied).is_flow_loaded


def test_where_the_bits_differ_the_graph_for_many_images_is_opened_at_once(
    artifact: Path, copied: EngineOptions
) -> None:
    change_record(copied, lambda document: document["pixels"]["program"]["plan"].update(is_equal_alone=False))
    assert copied.cache is not None
    parallel = json.loads(record_in(copied).read_bytes()[DIGEST_BYTES:])["pixels"]["program"]["parallel"]
    scorer = load_model(artifact, options=copied)
    (copied.cache / f"{parallel}.blob").unlink()
    assert not scorer.is_flow_loaded
    assert len(scorer.score(scorer.pinned[:1])) == 1
    assert load_model(artifact, options=copied).is_flow_loaded


def test_a_record_for_other_threads_is_made_again(
    artifact: Path, copied: EngineOptions, caplog: pytest.LogCaptureFixture
) -> None:
    change_record(copied, lambda document: document["pixels"]["program"]["plan"].update(parallel_requests=1))
    assert [load_model(artifact, options=copied).is_flow_loaded for _ in range(2)] == [True, False]
    assert "expected a program for 2 threads, got one for 1" in caplog.text


def test_a_bad_calibration_leaves_what_is_good_for_others(
    artifact: Path, copied: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("the statistic of the pinned image is 1.0, stored is 2.0")

    with monkeypatch.context() as patch:
        patch.setattr("snf_models.scorer.check_pinned_statistic", refuse)
        with pytest.raises(ArtifactError, match="stored is 2"):
            load_model(artifact, options=copied)
    assert not load_model(artifact, options=copied).is_flow_loaded


def test_a_cache_that_cannot_be_searched_costs_time_alone(
    artifact: Path, tmp_path: Path, options: EngineOptions, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(options, cache=tmp_path / ("x" * 300))
    assert load_model(artifact, options=options).is_flow_loaded
    assert "cannot be stored: File name too long" in caplog.text


def test_threads_are_counted_while_another_thread_imports_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert thread_count(None) == 3


@pytest.mark.parametrize(("limit", "cores"), [("150000 100000", 2), ("100000 100000", 1), ("max 100000", 4)])
def test_threads_are_those_that_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallelism.os, "sched_getaffinity", lambda _pid: set(range(0, 4)))
    monkeypatch.setattr(parallelism, "CPUS", tmp_path)
    monkeypatch.setattr(parallelism, "QUOTA", tmp_path / "cpu.max")
    assert parallelism.thread_count(None) == 4
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert parallelism.thread_count(None) == cores


@pytest.mark.parametrize(
    "changes",
    [{"name": "torch"}, {"threads": 1}, {"cache": None}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_options_have_their_own(artifact: Path, copied: EngineOptions, changes: dict[str, Any]) -> None:
    assert load_model(artifact, options=replace(copied, **changes)).is_flow_loaded


@pytest.mark.parametrize("what", ["other-code", "other-model"])
def test_other_code_and_other_weights_have_their_own(
    tmp_path_factory: pytest.TempPathFactory, copied: EngineOptions, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "other-code":
        monkeypatch.setattr("snf_models.loading.prepared._made_by", lambda: ("another version",))
    assert load_model(barely_trained(tmp_path_factory, seed=int(what == "other-model")), options=copied).is_flow_loaded


def test_a_full_disk_costs_time_alone(
    artifact: Path,
    tmp_path: Path,
    options: EngineOptions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("the disk is full")

    monkeypatch.setattr("snf_models.scoring.cache.require_room", full)
    options = replace(options, cache=tmp_path)
    assert load_model(artifact, options=options).is_flow_loaded
    assert "is not stored in the cache: the disk is full" in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]
    assert load_model(artifact, options=options).is_flow_loaded


def test_graphs_for_many_images_are_opened_when_they_are_asked_for(artifact: Path, options: EngineOptions) -> None:
    scorer = load_model(artifact, options=options)
    program = scorer.density.engine
    assert program._parallel is None
    scorer.open_parallel_graphs()
    assert program._parallel is program.parallel is not None
    assert np.isfinite([score.log_likelihood for score in scorer.score(scorer.pinned)]).all()
