"""Trials of Glow steps over features: kept where couplings help, left out where there is nothing to learn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snf_models.audit import audit
from snf_models.bijections.local_affine import ExactLocalAffine, SelfNormalizingLocalAffine
from snf_models.datasets import Dataset, load_dataset
from snf_models.features.flows import FeatureFlows
from snf_models.flows.architecture import FeatureArchitecture, Linear
from snf_models.pipeline import feature_fit as feature_steps
from snf_models.pipeline.feature_fit import FittedFeatures, StepsOutcome, StepsPlan, StepsTrial, fit_features
from snf_models.pipeline.presets import find_preset
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from tests.models.training.runs import train_whole
from tests.support.backbones import backbone_folder

SHAPE, GROUPS, COUNT = (4, 4, 4), (1, 1), 1000
UPDATES = 130


class Table:
    """An extractor of given features: the pixels of an image say its number."""

    feature_shape = SHAPE
    pooled = GROUPS

    def __init__(self, features: NDArray[np.float32]) -> None:
        self.features = features

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        numbers = images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]
        return self.features[numbers], self.features[numbers][:, : sum(GROUPS)].mean((2, 3))


def numbered() -> NDArray[np.uint8]:
    images = np.zeros((COUNT, 1, 2, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(COUNT), 256)
    return images


def features(*, curved: bool) -> NDArray[np.float32]:
    """Noise, of which half of the channels follow the square of the others, to the other side at every other place."""
    x = np.random.default_rng(0).standard_normal((COUNT, *SHAPE))
    if curved:
        side = np.where(np.arange(16).reshape(4, 4) % 2, 1, -1)
        x[:, 2:] = 0.3 * x[:, 2:] + side * (x[:, :2] ** 2 - 1)
    return x.astype(np.float32)


def architecture(linear: Linear = "self-normalizing") -> FeatureArchitecture:
    return FeatureArchitecture(
        channels=1, height=2, width=2, backbone="table", backbone_sha256="0" * 64, input_height=2, input_width=2,
        feature_channels=4, rows=4, columns=4, pooled=GROUPS, grids=(16,), linear=linear, hidden=16,
    )  # fmt: skip


def fitted(
    x: NDArray[np.float32],
    folder: Path,
    *,
    linear: Linear = "self-normalizing",
    suspect_share: float = 0.0,
    updates: int = UPDATES,
) -> tuple[FittedFeatures, list[tuple[str, int, int]]]:
    seen: list[tuple[str, int, int]] = []
    plan = StepsPlan(2, updates, 0, folder)
    result = fit_features(
        numbered(), Table(x), architecture(linear), lambda *report: seen.append(report), None, suspect_share, plan
    )
    return result, seen


@pytest.mark.parametrize("linear", ["self-normalizing", "exact"])
def test_steps_that_help_are_kept(linear: Linear, tmp_path: Path) -> None:
    result, seen = fitted(features(curved=True), tmp_path, linear=linear)
    assert result.steps.record.kept
    assert result.steps.record.gain > 5 * result.steps.record.standard_error
    assert len(result.steps.gains) == COUNT // 5
    assert result.architecture.steps == 2
    assert len(result.flows.steps) == 4
    assert not any(module.training for module in result.flows.modules())
    assert "so the steps are kept" in result.steps.summary()
    assert [done for part, done, _ in seen if part == "Glow steps"] == list(range(1, UPDATES + 1))
    assert not list(tmp_path.iterdir())
    if linear == "self-normalizing":
        assert max(result.flows.reconstruction_errors()) < 0.1


def test_steps_that_do_not_help_are_left_out(tmp_path: Path) -> None:
    result, _ = fitted(features(curved=False), tmp_path, updates=60)
    assert not result.steps.record.kept
    assert result.architecture.steps == len(result.flows.steps) == 0
    assert "so the steps are left out" in result.steps.summary()


def test_suspects_are_left_out_of_the_trial(tmp_path: Path) -> None:
    x = features(curved=True)
    x[:50] *= 50
    result, seen = fitted(x, tmp_path, suspect_share=0.1, updates=60)
    assert result.steps.record.kept
    assert len(result.steps.gains) == (COUNT - 100) // 5
    assert seen.count(("Glow steps", 60, 60)) == 1


def outcome(
    x: NDArray[np.float32], folder: Path, batches: int, layer: ExactLocalAffine, updates: int = 5, tiles: int = 1
) -> StepsOutcome:
    """Return the outcome for samples that are images, or so many tiles of each image."""
    images = len(x) // tiles
    folds = np.arange(images) * 5 // images
    trial = StepsTrial(StepsPlan(2, updates, 0, folder), architecture(), folds, np.arange(images).repeat(tiles))
    start = 0
    for part in np.array_split(x, batches):
        trial.add(start, part)
        start += len(part)
    return trial.run(layer, lambda _done, _total: None)


def test_gains_are_differences_of_exact_log_likelihoods(tmp_path: Path) -> None:
    x, layer = features(curved=True), SelfNormalizingLocalAffine(SHAPE, 2).eval()
    pooled = SelfNormalizingLocalAffine((sum(GROUPS), 1, 1), 1)
    found = outcome(x, tmp_path, 7, layer, 50)
    held_out = torch.from_numpy(x[-COUNT // 5 :]).double()

    def log_likelihood(flows: FeatureFlows) -> torch.Tensor:
        flows.double()
        log_det = sum(flows.log_dets()[name] for name in flows.scored())
        return log_det - 0.5 * flows.latents(held_out).square().sum((1, 2, 3))

    with torch.no_grad():
        expected = log_likelihood(FeatureFlows([layer], [pooled], found.steps))
        expected = expected - log_likelihood(FeatureFlows([layer], [pooled]))
    np.testing.assert_allclose(found.gains, expected.numpy(), rtol=0, atol=1e-3)


def test_a_trial_stores_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = features(curved=True), ExactLocalAffine(SHAPE, 1)
    assert len(outcome(x, tmp_path, 1, layer).gains) == COUNT // 5
    monkeypatch.setattr(feature_steps, "MAX_IMAGES", 210)
    some = outcome(x[::5], tmp_path, 1, layer)
    for batches in (1, 7, COUNT):
        np.testing.assert_array_equal(outcome(x, tmp_path, batches, layer).gains, some.gains)
    monkeypatch.setattr(feature_steps, "MAX_BYTES", 4 * 64 * 50)
    assert len(outcome(x, tmp_path, 1, layer).gains) == 10


@pytest.mark.parametrize("most", [4000, 500, 200])
def test_tiles_of_an_image_are_one_held_out_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Of 200 images of five tiles; all tiles are stored, or every second or fifth one."""
    monkeypatch.setattr(feature_steps, "MAX_IMAGES", most)
    x, layer = features(curved=True), ExactLocalAffine(SHAPE, 1)
    samples, images = (outcome(x, tmp_path, 7, layer, tiles=tiles) for tiles in (1, 5))
    stored = np.arange(0, COUNT, max(1, COUNT // most))
    owners = stored[stored >= COUNT * 4 // 5] // 5
    expected = [samples.gains[owners == image].mean() for image in range(160, 200)]
    np.testing.assert_allclose(images.gains, expected, rtol=1e-12)
    assert images.record.standard_error == pytest.approx(np.std(expected, ddof=1) / 40**0.5)


class Blocks:
    """An extractor of the four pixels of each block."""

    feature_shape = SHAPE
    pooled = GROUPS

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        blocks = images.reshape(-1, 4, 2, 4, 2).transpose(0, 2, 4, 1, 3).reshape(-1, *SHAPE).astype(np.float32)
        return blocks, blocks[:, : sum(GROUPS)].mean((2, 3))


def test_a_fit_to_tiles_counts_held_out_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 20), dtype=np.uint8)
    tiles = architecture().model_copy(
        update={"height": 8, "width": 8, "input_height": 8, "input_width": 8, "tiled": True}
    )
    plan = StepsPlan(1, 5, 0, tmp_path)
    result = fit_features(list(images), Blocks(), tiles, lambda *_: None, plan=plan)
    assert len(result.steps.gains) == 10


def test_what_a_report_raises_ends_the_trial(tmp_path: Path) -> None:
    def report(part: str, _done: int, _total: int) -> None:
        if part == "Glow steps":
            raise InterruptedError

    plan = StepsPlan(1, 5, 0, tmp_path)
    with pytest.raises(InterruptedError):
        fit_features(numbered(), Table(features(curved=True)), architecture(), report, plan=plan)


def digits(*, few: bool) -> Dataset:
    """Return 400 training images and their other parts, or 30 images in three folds."""
    whole = load_dataset("mnist-mini", None)
    train, statistics = whole.train[: 20 if few else 400], whole.statistics[: 10 if few else 20]
    folds, whole_folds = ((np.arange(count) % 3).astype(np.int8) for count in (10, 30))
    part = replace(whole, train=train, statistics=statistics, calibration=whole.calibration[:20], test=whole.test[:5])
    return replace(part, calibration=train[:0], folds=folds, whole_folds=whole_folds) if few else part


@pytest.mark.parametrize("few", [False, True])
def test_a_model_has_the_steps_that_were_kept(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, few: bool
) -> None:
    dataset = digits(few=few)
    options = EngineOptions("torch", threads=1, backbones=backbone_folder(tmp_path_factory))
    config = find_preset("snf-features").config({"feature_side": 32, "feature_steps": 2, "feature_updates": 50})
    events: list[dict[str, Any]] = []
    path = train_whole(dataset, "snf-features", config, tmp_path, observe=events.append, engine=options)
    scorer = load_model(path, options=options)
    record, architecture = scorer.manifest.training.feature_fit, scorer.manifest.architecture
    logged = [event["message"] for event in events if event["event"] == "log"]
    if few:
        assert record.steps is None
        assert architecture.steps == 0
        assert "too few images to try Glow steps over features" in logged
        return
    assert record.steps.kept
    assert (record.steps.steps, record.steps.updates, record.steps.held_out_images) == (2, 50, 80)
    assert record.steps.gain > record.steps.standard_error
    assert architecture.steps == 2
    assert any(message.endswith("so the steps are kept") for message in logged)
    assert {"steps.0", "steps.1", "steps.2", "steps.3"} <= scorer.manifest.log_dets.layers.keys()
    audited = audit(scorer, 0)
    assert abs(audited.log_likelihood - audited.recomputed) <= scorer.tolerance(audited.recomputed)
    assert audited.log_det_total == pytest.approx(scorer.density.constant_log_det, abs=1e-6)
