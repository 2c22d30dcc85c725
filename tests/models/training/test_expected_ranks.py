"""The smallest false-alarm rate of a training is known from its images before, and is that of the model after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snf_client.schemas.limits import LimitParameters
from snf_models.anomaly.reference_images import folds_digest
from snf_models.datasets import DatasetStore, load_dataset, summarize
from snf_models.datasets.dataset import DatasetSummary
from snf_models.errors import AlphaUnattainable, DatasetUnfit
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.pipeline.presets import ExpectedRanks, find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.options import EngineOptions
from snf_models.training.config import TrainingConfig
from tests.models.datasets.upload_files import npz, source
from tests.models.helpers import real_images


@pytest.mark.parametrize(
    ("preset", "steps", "parts", "ranks", "needed"),
    [
        ("snf-features", 0, (39, 26, 0, 0, 5), 65, 99),
        ("snf-features", 0, (390, 65, 195, 0, 0), 650, 99),
        ("snf-features", 2, (390, 65, 195, 0, 0), 195, 248),
        ("snf-features", 2, (39, 26, 0, 0, 5), 65, 99),
        ("snf-glow-small", 0, (39, 26, 0, 0, 5), 26, 248),
        ("snf-glow-small", 0, (390, 65, 195, 0, 0), 195, 248),
        ("snf-hybrid", 0, (390, 65, 195, 0, 0), 195, 248),
    ],
)
def test_ranks_follow_from_the_images(
    preset: str, steps: int, parts: tuple[int, int, int, int, int], ranks: int, needed: int
) -> None:
    splits = DatasetSummary((1, 28, 28), *parts, whole_folds=5)
    architecture = find_preset(preset).architecture(splits.image_shape, "marginal")
    expected = ExpectedRanks.of(architecture, TrainingConfig(feature_steps=steps), splits)
    assert (expected.images, expected.images_for_default) == (ranks, needed)
    assert expected.smallest_alpha == 1 / (ranks + 1)
    assert f"among {ranks} images" in expected.sentence
    assert f"takes {needed} good images" in expected.sentence


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> tuple[Scorer, DatasetStore, list[str]]:
    """A model of 150 digits, which the smallest number of images counts as many, as 400 are."""
    folder = tmp_path_factory.mktemp("ranks")
    store, said = DatasetStore(folder / "datasets"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snf_models.datasets.dataset.SMALL", 100)
        store.create("digits", [source(folder / "uploads", npz(images=real_images(150)[:, 0]))])
    config = find_preset("snf-features").config({"feature_side": 32})
    dataset = load_dataset("digits", None, store, config)
    assert dataset.folds is None

    def observe(event: dict[str, Any]) -> None:
        said.append(event.get("message", ""))

    engine = EngineOptions("torch", threads=1, backbones=backbones)
    path = train(
        dataset, "snf-features", config, folder / "run", observe=observe, should_stop=lambda: False, engine=engine
    )
    return load_model(path, options=engine), store, said


def test_every_image_of_many_gives_a_rank(trained: tuple[Scorer, DatasetStore, list[str]]) -> None:
    scorer, store, said = trained
    summary, training = scorer.calibration_summary, scorer.manifest.training
    assert (summary.calibration_images, summary.folds, summary.smallest_p) == (150, 5, 1 / 151)
    assert training.train_images == 150
    assert "p-values are ranks among 150 images: the smallest attainable alpha is 0.0066" in said[0]
    config = TrainingConfig(feature_side=32)
    expected = ExpectedRanks.of(scorer.manifest.architecture, config, summarize("digits", None, store, config))
    assert (expected.images, expected.smallest_alpha) == (150, scorer.calibration.smallest_p)


def test_a_fold_serves_for_a_detection_limit(trained: tuple[Scorer, DatasetStore, list[str]]) -> None:
    scorer, store, _ = trained
    manifest, summary = scorer.manifest, scorer.calibration_summary
    good = good_images("digits", manifest, summary, 100, None, store)
    dataset = load_dataset("digits", None, store)
    assert dataset.whole_folds is not None
    assert summary.folds_sha256 == folds_digest(dataset.whole_folds)
    every = np.concatenate([dataset.train, dataset.statistics, dataset.calibration])
    of_fold = {image.tobytes() for image in every[dataset.whole_folds == 0]}
    assert {image.tobytes() for image in good.pixels[:]} == of_fold
    record = measure_limits(scorer, good, LimitParameters(shapes=("missing-part",), alpha=0.05))
    assert (record.images, record.calibration_images, record.smallest_p) == (30, 30, 1 / 31)
    assert record.undamaged.flagged == 0, "an image does not exceed its own rank"
    with pytest.raises(AlphaUnattainable):
        measure_limits(scorer, good, LimitParameters(alpha=0.01))


def test_folds_that_are_not_known_serve_for_no_limit(trained: tuple[Scorer, DatasetStore, list[str]]) -> None:
    scorer, store, _ = trained
    for digest in (None, "0" * 64):
        other = scorer.calibration_summary.model_copy(update={"folds_sha256": digest})
        with pytest.raises(DatasetUnfit, match="was fitted to all images of digits"):
            good_images("digits", scorer.manifest, other, 100, None, store)
