"""Fits of flows over features, and their progress."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snf_models.bijections.local_affine import SelfNormalizingLocalAffine
from snf_models.datasets import DatasetStore, load_dataset
from snf_models.features.fit import FeatureMoments, fit_layer
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.pipeline.feature_fit import UNITS, FittedFeatures, fit_features, passes_of_fit
from snf_models.pipeline.presets import find_preset
from snf_models.scoring import EngineOptions
from snf_worker.attempts.run_attempt import ProgressReporter
from snf_worker.jobs.events import FILE, AttemptSummary, EventLog, read_chunk
from tests.models.datasets.upload_files import pngs, source, zipped
from tests.models.helpers import grid_choice, real_images
from tests.models.training.runs import train_whole

SHAPE, GROUPS = (3, 4, 4), (2, 3)


class Linear:
    """An extractor: fixed sums of the pixels of each 7x7 block, and of all of them."""

    feature_shape = SHAPE
    pooled = GROUPS

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.at_places = generator.standard_normal((3, 49)) / 49
        self.of_all = generator.standard_normal((sum(GROUPS), 784)) / 784
        self.images = 0

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.images += len(images)
        blocks = images.reshape(-1, 4, 7, 4, 7).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 49).astype(np.float64)
        places = (blocks @ self.at_places.T).transpose(0, 2, 1).reshape(-1, *SHAPE)
        pooled = images.reshape(len(images), -1) @ self.of_all.T
        return places.astype(np.float32), pooled.astype(np.float32)


def architecture() -> FeatureArchitecture:
    return FeatureArchitecture(
        channels=1, height=28, width=28, backbone="linear", backbone_sha256="0" * 64, input_height=28, input_width=28,
        feature_channels=3, rows=4, columns=4, pooled=GROUPS, grids=(16,),
    )  # fmt: skip


def reported() -> tuple[list[tuple[str, int, int]], object]:
    seen: list[tuple[str, int, int]] = []
    return seen, lambda part, done, total: seen.append((part, done, total))


def test_a_fit_passes_over_the_images_once_and_says_how_far_it_is() -> None:
    extractor, images = Linear(), real_images(100)
    seen, report = reported()
    fitted = fit_features(images, extractor, architecture(), report)
    assert extractor.images == 100
    assert fitted.unseen is None
    assert len(fitted.flows.places) == len(fitted.architecture.grids) == 1
    grids = fitted.record.grids
    assert fitted.architecture.grids[0] == grids[0].grid
    assert [choice.held_out_nats for choice in grids] == sorted(choice.held_out_nats for choice in grids)
    of_features = [(done, total) for part, done, total in seen if part == "features"]
    assert of_features[-1] == (100, 100)
    assert all(before < after for (before, _), (after, _) in pairwise(of_features))
    assert ("choice of the grid", 1, 1) in seen


def test_the_fit_is_that_of_all_images_and_of_all_but_a_fold() -> None:
    extractor, images = Linear(), real_images(60)
    folds = (np.arange(60) % 5).astype(np.int8)
    _, report = reported()
    fitted = fit_features(images, extractor, architecture(), report, folds)
    assert len(fitted.flows.places) == len(fitted.architecture.grids) == 6
    places, _ = Linear()(images)
    for number, layer in enumerate(fitted.flows.places):
        kept = np.flatnonzero(folds != number - 1)
        moments = FeatureMoments(SHAPE, 1)
        moments.add(places[kept], np.zeros(len(kept), dtype=np.int8))
        x = torch.from_numpy(places[kept])
        mean = layer.mean.detach().numpy()
        if number == 0 and fitted.record.grids[0].mean_shrinkage == 0:
            np.testing.assert_allclose(mean, places.mean(0), rtol=1e-4, atol=1e-4)
        # Whitened: about unit variance on what it was fitted to.
        z = layer.apply_weight(x - layer.mean).detach()
        assert 0.5 < float(z.square().mean()) < 1.2


def test_what_is_unseen_is_by_fits_without_the_fold_and_the_image() -> None:
    extractor, images = Linear(), real_images(40)
    folds = (np.arange(40) % 5).astype(np.int8)
    _, report = reported()
    fitted = fit_features(images, extractor, architecture(), report, folds)
    assert extractor.images == 40, "the features are computed once"
    assert [len(part) for part in fitted.unseen] == [32] * 5
    places, _ = Linear()(images)
    # The first image is in fold 0; for fold 2 it is judged by the fit without both.
    kept = np.flatnonzero((folds != 0) & (folds != 2))
    moments = FeatureMoments(SHAPE, 1)
    moments.add(places[kept], np.zeros(len(kept), dtype=np.int8))
    found = fitted.unseen[2].places[0, 0]
    candidates = []
    for grid in (1, 2, 4, 8):
        for shrinkage in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0):
            for mean_shrinkage in (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
                layer = SelfNormalizingLocalAffine(SHAPE, grid)
                fit_layer(layer, moments, [0], grid_choice(grid, shrinkage, mean_shrinkage))
                z = layer.apply_weight(torch.from_numpy(places[:1]) - layer.mean).detach()
                candidates.append(float(np.abs(0.5 * z.square().sum(1)[0].numpy() - found).max()))
    assert min(candidates) < 1e-3


def test_suspects_are_left_out_of_the_fit() -> None:
    images = real_images(100)
    dirty = np.concatenate([images, 255 - images[:4]])
    _, report = reported()
    clean = fit_features(images, Linear(), architecture(), report)
    careless = fit_features(dirty, Linear(), architecture(), report)
    careful = fit_features(dirty, Linear(), architecture(), report, suspect_share=4 / 104)

    def distance(fitted: FittedFeatures) -> float:
        mean, expected = (next(fit.flows.fits())[1].mean.detach() for fit in (fitted, clean))
        return float((mean - expected).abs().max())

    assert distance(careful) < 0.3 * distance(careless)


def test_suspects_of_a_fit_without_a_fold_are_among_its_own_images() -> None:
    images = real_images(100)
    images[[3, 7]] = 255 - images[[3, 7]]
    folds = (np.arange(100) % 5).astype(np.int8)
    _, report = reported()

    def means(of: NDArray[np.uint8], share: float) -> list[NDArray[np.float32]]:
        fitted = fit_features(of, Linear(), architecture(), report, folds, share)
        assert fitted.unseen is not None
        return [layer.mean.detach().numpy() for layer in fitted.flows.places]

    careless, careful, clean = means(images, 0.0), means(images, 0.02), means(real_images(100), 0.0)
    for number in range(6):  # the images are in the folds 3 and 2, of the fits 4 and 3
        if number not in (3, 4):
            away, near = (np.abs(fits[number] - clean[number]).max() for fits in (careless, careful))
            assert near < 0.5 * away
    # What is in fold 2 has no influence on the fit without it, nor on which suspects that fit leaves out.
    changed = images.copy()
    changed[folds == 2] = 255 - changed[folds == 2]
    np.testing.assert_allclose(means(changed, 0.02)[3], careful[3], rtol=1e-5, atol=1e-6)


def test_what_a_report_raises_ends_the_fit() -> None:
    def report(part: str, _done: int, _total: int) -> None:
        if part == "choice of the grid":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit_features(real_images(40), Linear(), architecture(), report)


@pytest.mark.parametrize(
    ("name", "parameters", "share"),
    [
        ("mnist-mini", {"feature_steps": 1, "feature_updates": 3}, 1.0),
        ("mnist-mini", {"suspect_share": 0.1}, 0.9),
        ("digits", {}, 1.0),
    ],
    ids=["steps", "suspects", "folds"],
)
def test_progress_reaches_its_end(
    tmp_path: Path,
    backbones: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    parameters: dict[str, Any],
    share: float,
) -> None:
    monkeypatch.setattr("snf_worker.attempts.run_attempt.REPORT_S", 0.0)
    store = DatasetStore(tmp_path / "datasets")
    if name == "digits":
        store.create("digits", [source(tmp_path / "uploads", zipped(pngs(40, 4)))])
    config = find_preset("snf-features").config({"feature_side": 32, **parameters})
    dataset = load_dataset(name, None, store, config)
    if name == "mnist-mini":  # the backbone takes its time for each image
        few = {part: getattr(dataset, part)[:20] for part in ("statistics", "calibration", "test")}
        few["train"] = dataset.train[:60]
        dataset = replace(dataset, **few, digest=f"{dataset.digest}-few")
    elif dataset.folds is not None and dataset.whole_folds is not None:  # all fits are repeated for each fold
        dataset = replace(dataset, folds=dataset.folds % 3, whole_folds=dataset.whole_folds % 3)
    assert (dataset.whole_folds is not None) == (name == "digits")
    total = passes_of_fit(dataset, config)
    log = EventLog(tmp_path, 1)
    fit = ProgressReporter(log, total)

    def observe(event: dict[str, Any]) -> None:
        log.write(event)
        if event["event"] == "scoring":
            fit.report(event["done"] * UNITS.get(event["part"], 1), part=event["part"])

    engine = EngineOptions("torch", threads=1, backbones=backbones)
    folder = tmp_path / "run"
    train_whole(dataset, "snf-features", config, folder, observe=observe, engine=engine)
    summary, fractions = AttemptSummary({}, {}, None), [0.0]
    for _, event in read_chunk(tmp_path / FILE).entries:
        summary.add(event)
        fractions.append(summary.progress.get("fraction", 0.0))
    assert fractions == sorted(fractions), "one progress, which rises"
    assert summary.progress["steps"] == total
    summary.add({"event": "published", "model": "digits", "version": 1, "ref": "digits:1"})  # of an earlier version
    assert summary.result == {"model": "digits", "version": 1, "ref": "digits:1"}
    assert share * total <= fit.done <= total
