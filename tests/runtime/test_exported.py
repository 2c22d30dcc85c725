"""Exported models: the runner gives scores and verdicts of the service to the bit, and refuses damaged folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.datasets import load_dataset
from snf_models.errors import ArtifactError, EngineUnavailable, StorageFull
from snf_models.exports import _notice, export_model, pixel_part
from snf_models.features.backbones import LITE0
from snf_models.features.backbones import NOTICE as LITE0_NOTICE
from snf_models.registry.registry import ModelVersion
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import freeze
from snf_runtime import Model
from snf_runtime.anomaly.calibration import DIGITS as DECIMALS
from snf_runtime.anomaly.detection import Detection, FileVerdict, NotJudged
from snf_runtime.errors import AlphaUnattainable
from snf_runtime.exported.manifest import ARRAYS, FILE, GraphFormat, read_export_manifest
from snf_runtime.images.codec import decode_image, encode_png
from snf_runtime.images.preprocessing import FilePlacement
from tests.models.anomaly.flows import fully_connected
from tests.support.backbones import backbone_folder
from tests.support.compiled_cache import compiled
from tests.support.exports import exported_pixels, rewritten
from tests.support.fits import stained_file, with_fit
from tests.support.paths import DIGITS, ROOT
from tests.support.tiled import mosaic, tiled_artifact, with_fault
from tests.support.trained import barely_trained, feature_artifact, hybrid_artifact

THREADS = 1
FORMATS: tuple[GraphFormat, ...] = ("openvino", "onnx")


def loaded(artifact: Path, options: EngineOptions) -> tuple[ModelVersion, Scorer]:
    return ModelVersion("digits", 3, artifact, False, None), load_model(artifact, options=options)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    return compiled(name="openvino", threads=THREADS, backbones=backbone_folder(tmp_path_factory))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pixels, exported. Never write to it."""
    return exported_pixels(tmp_path_factory)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported model that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


Images = NDArray[np.uint8] | list[NDArray[np.uint8]]


def compare(judged: Sequence[object], model: Model, images: Images, regions: bool) -> None:
    """Compare scores and verdicts of a runner with those of a scorer, image by image."""
    found = list(model.judge([image.transpose(1, 2, 0) for image in images], regions=regions))
    assert len(found) == len(images)
    for got, want in zip(found, judged, strict=True):
        assert isinstance(got, FileVerdict)
        assert isinstance(want, Detection)
        likelihood, verdict = want.likelihood, want.verdict
        assert (got.log_likelihood, got.bits_per_dim) == (likelihood.log_likelihood, likelihood.bits_per_dim)
        assert (got.p_value, got.score, got.is_anomaly) == (verdict.p_value, verdict.score, verdict.is_anomaly)
        assert got.alpha == verdict.alpha
        # The last digits of reconstruction errors differ in ONNX.
        tolerance = 0 if model.manifest.format == "openvino" else 1e-5
        assert abs(got.statistic - round(verdict.statistic, DECIMALS)) <= tolerance
        assert [(r.text, r.box, r.feature) for r in got.reasons] == [
            (r.text, r.box, r.feature) for r in verdict.reasons
        ]
        assert got.regions == want.regions
    assert len({got.log_likelihood for got in found if isinstance(got, FileVerdict)}) > 5


@pytest.mark.parametrize("kind", [barely_trained, feature_artifact, hybrid_artifact])
def test_scores_and_verdicts_are_those_of_the_service(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    options: EngineOptions,
    kind: Callable[[pytest.TempPathFactory], Path],
) -> None:
    version, scorer = loaded(kind(tmp_path_factory), options)
    images = load_dataset("mnist-mini", None).test[:16].copy()
    images[3, :, 4:14, 6:16] = 255 - images[3, :, 4:14, 6:16]
    judged, explained = scorer.detect(images), scorer.detect(images[:9], explain=True)
    drawn = scorer.score(images[:1], draws=3)[0].log_likelihood
    for form in FORMATS:
        manifest = export_model(version, scorer, tmp_path / form, form)
        model = Model.load(tmp_path / form, THREADS)
        compare(judged, model, images, regions=False)
        compare(explained, model, images[:9], regions=True)
        assert manifest == read_export_manifest(tmp_path / form) == model.manifest
        assert (manifest.kind, manifest.format) == (scorer.density.kind, form)
        draws = [got for got in model.judge([images[0, 0]], draws=3) if isinstance(got, FileVerdict)]
        assert draws[0].log_likelihood == drawn


def test_images_of_tiles(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, options: EngineOptions) -> None:
    version, scorer = loaded(tiled_artifact(tmp_path_factory)[0], options)
    export_model(version, scorer, tmp_path / "model", "openvino")
    images = [with_fault(mosaic(number), 20, 24) if number % 3 == 0 else mosaic(number) for number in range(300, 309)]
    model = Model.load(tmp_path / "model", THREADS)
    compare(scorer.detect(images, explain=True), model, images, regions=True)
    path = tmp_path / "large.png"
    path.write_bytes(encode_png(mosaic(1, 8, 8)))
    for regions in (False, True):
        found = list(model.judge([mosaic(1, 8, 8)[0], images[1][0], path], regions=regions))
        errors = [result.error if isinstance(result, NotJudged) else None for result in found]
        assert errors == ["size-not-calibrated", None, "size-not-calibrated"]


def test_boxes_are_those_of_the_file(artifact: Path, tmp_path: Path, options: EngineOptions) -> None:
    version, scorer = loaded(with_fit(artifact, "crop", tmp_path / "artifact"), options)
    export_model(version, scorer, tmp_path / "model", "openvino")
    content, _ = stained_file("crop")
    (tmp_path / "stained.png").write_bytes(content)
    image = decode_image(content, scorer.preprocessing)
    (want,) = scorer.detect(image.pixels[None], alpha=0.5, explain=True)
    assert isinstance(want, Detection)
    want = want.in_file(FilePlacement.of(scorer.preprocessing, image.file_size))
    for source in (tmp_path / "stained.png", content):
        (got,) = Model.load(tmp_path / "model").judge([source], 0.5, regions=True)
        assert isinstance(got, FileVerdict)
        assert got.regions == want.regions
        assert [reason.box for reason in got.reasons] == [reason.box for reason in want.verdict.reasons]
        assert any(reason.box and max(reason.box) > 28 for reason in got.reasons)


def test_every_image_is_judged_or_named(exported: Path, tmp_path: Path) -> None:
    model = Model.load(exported)
    (tmp_path / "text.png").write_text("no image")
    sources = [
        DIGITS[0], tmp_path / "text.png", tmp_path / "missing.png", encode_png(np.zeros((3, 28, 28), np.uint8) + 7),
        np.zeros((5, 5), np.uint8), np.zeros((28, 28, 2), np.uint8), np.zeros((28, 28), np.float32),
        DIGITS[1].read_bytes(),
    ]  # fmt: skip
    found = list(model.judge(sources))
    errors = [result.error if isinstance(result, NotJudged) else None for result in found]
    assert errors == [
        None, "undecodable-image", "unreadable-image", None, "wrong-image-shape", "wrong-image-shape",
        "unsupported-image", None,
    ]  # fmt: skip
    assert [result.name for result in found[:2]] == [str(DIGITS[0]), str(tmp_path / "text.png")]
    assert found[7].name == "image 7"
    assert isinstance(found[3], FileVerdict)
    assert found[3].notes == ("converted RGB -> L",)
    with pytest.raises(AlphaUnattainable, match="smallest attainable"):
        model.judge(sources, 1e-9)


def test_the_notice_tells_copyright_and_changes_of_the_default_backbone_alone(artifact: Path) -> None:
    version = ModelVersion("digits", 3, artifact, False, None)
    project = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for line in LITE0_NOTICE:
        assert line in _notice(version, LITE0).splitlines()
        assert line.partition(": ")[2] in project
    foreign = LITE0.model_copy(update={"sha256": "0" * 64, "license": "CC0-1.0", "origin": ""})
    assert _notice(version, foreign).splitlines()[-2:] == ["Licence: CC0-1.0", "Origin: not stated"]
    assert "backbone" not in _notice(version, None)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / FILE).unlink(), "expected a folder of `snf export`"),
        (lambda f: (f / FILE).write_text("{"), "not a valid manifest"),
        (lambda f: (f / FILE).write_text("[" * 100_000), "not a valid manifest"),
        (lambda f: (f / FILE).write_text(" " * 2**21), "at most 1048576 bytes"),
        (lambda f: (f / ARRAYS).unlink(), "arrays.npz is missing"),
        (lambda f: (f / "other.bin").write_text(""), "got other.bin beside them"),
        (lambda f: flip(f / "pixels.bin"), r"pixels.bin does not have the SHA-256"),
        (lambda f: flip(f / ARRAYS), r"arrays.npz does not have the SHA-256"),
        (lambda f: (f / "pixels.xml").write_text("<net/>"), r"pixels.xml: expected \d+ bytes, got 6"),
        (lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes()[:-100]), r"arrays.npz: expected \d+ bytes"),
    ],
    ids=["gone", "cut", "deep", "large", "no-arrays", "another", "graph", "arrays", "net", "truncated"],
)
def test_damaged_folders_are_refused(copied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copied)
    with pytest.raises(ArtifactError, match=message):
        Model.load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format_version to be one of 1, got 2"),
        (lambda m: m.update(more=1), "expected no 'more'"),
        (lambda m: m.pop("weights_sha256"), "expected 'weights_sha256'"),
        (lambda m: m["preprocessing"].update(height=0), "expected height to be a whole number from 1 to 4096, got 0"),
        (lambda m: m["preprocessing"].update(height=14), "levels/0/latent_shape to be None"),
        (lambda m: m["pixels"]["levels"][0].update(kept="2"), "pixels/levels/0/kept to be of type int, got str"),
        (lambda m: m["pixels"]["outputs"].pop(), "expected latent of level 1"),
        (lambda m: m["pixels"]["levels"].pop(), "do not fit each other"),
        (lambda m: m["pinned"].update(log_likelihood=1.5), "a log-likelihood of 1.500000 nats, got"),
        (lambda m: m["pinned"].update(statistic=-3.0), "a statistic of -3.000000 nats, got"),
        (lambda m: m.update(weights_sha256="0" * 64), "the stored image to have a log-likelihood"),
        (lambda m: m["calibration"].update(images=7), "expected 7 calibration images"),
        (lambda m: m["files"].pop("NOTICE"), "does not list NOTICE"),
        (lambda m: m.update(pixels=None, features=None), "neither pixels nor features"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_manifests_that_do_not_fit_are_refused(
    copied: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewritten(copied, change)
    with pytest.raises(ArtifactError, match=message):
        Model.load(copied)


def test_arrays_are_numbers_and_nothing_else(copied: Path) -> None:
    """A pickled object is not loaded, and a compressed file is not unpacked."""
    with np.load(copied / ARRAYS) as arrays:
        whole = dict(arrays)
    np.savez_compressed(copied / ARRAYS, **whole)
    rewritten(copied, lambda _: None)
    with pytest.raises(ArtifactError, match="not compressed"):
        Model.load(copied)
    with (copied / ARRAYS).open("wb") as file:
        np.savez(file, pinned=np.array([print], dtype=object), allow_pickle=True)
    rewritten(copied, lambda _: None)
    with pytest.raises(ArtifactError, match="float32, float64, got object"):
        Model.load(copied)
    for name in ("pinned", "pixel-masses", "calibration.folds.0.ordered"):
        with (copied / ARRAYS).open("wb") as file:
            np.savez(file, **{key: value for key, value in whole.items() if key != name})
        rewritten(copied, lambda _: None)
        with pytest.raises(ArtifactError, match=r"stored image|pixel-masses|lacks calibration.folds.0.ordered"):
            Model.load(copied)


def test_a_graph_that_is_none_is_refused(copied: Path) -> None:
    (copied / "pixels.xml").write_text("<net/>")
    rewritten(copied, lambda _: None)
    with pytest.raises(ArtifactError, match="cannot be read and compiled by OpenVINO"):
        Model.load(copied)


def test_a_flow_without_a_graph_is_not_exported() -> None:
    with pytest.raises(EngineUnavailable, match="cannot be exported: the flow has layers"):
        pixel_part(freeze(fully_connected(), (1, 6, 6)))


def test_an_export_is_whole_or_not_there(
    artifact: Path, tmp_path: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, scorer = loaded(artifact, options)
    monkeypatch.setattr("snf_models.disk.usable_bytes", lambda _: 2**22)
    with pytest.raises(StorageFull, match=r"[45]\d{6} bytes are needed"):  # the model takes less than a megabyte
        export_model(version, scorer, tmp_path / "model", "openvino")
    monkeypatch.undo()
    monkeypatch.setattr("snf_models.exports._pinned", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(version, scorer, tmp_path / "model", "openvino")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export_model(version, scorer, tmp_path / "model", "openvino")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(FileExistsError):
        export_model(version, scorer, tmp_path / "model", "onnx")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"expected only the files of an export, got notes\.txt"):
        export_model(version, scorer, tmp_path / "model", "onnx", overwrite=True)
    (tmp_path / "model" / "notes.txt").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with pytest.raises(ArtifactError, match="got the link"):
        export_model(version, scorer, tmp_path / "link", "onnx", overwrite=True)
    (tmp_path / "link").unlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    export_model(version, scorer, tmp_path / "model", "onnx", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert Model.load(tmp_path / "model").manifest.format == "onnx"
