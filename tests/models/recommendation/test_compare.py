"""Comparisons of real families on real digits, within seconds: what is measured, what is missing, and going on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from models.anomaly.fitting.split_or_cross_conformal import ReferenceEvidence
from models.datasets import Images, load_dataset
from models.errors import DatasetUnfit, ScoreNotFinite
from models.images.options import ImageOptions
from models.recommendation import architectures, compare
from models.recommendation.compare import compare_families
from models.recommendation.record import RecommendationRecord, RecommendParameters
from models.scoring.options import EngineOptions
from models.training.interrupted import Interrupted
from tests.models.recommendation.test_subsets import Untouchable
from tests.support.backbones import backbone_folder

FAST: dict[str, Any] = {"feature_side": 32, "shapes": ("missing-part",), "minutes": 5}
SHORT: dict[str, Any] = {"image_size": 16, "minutes": 0.25}
ODD = {"image_size": 27}
"""A size that no pixel flow takes: what is left is fitted in closed form."""

WholeComparison = tuple[Path, RecommendationRecord, list[str]]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    return EngineOptions("torch", threads=1, backbones=backbone_folder(tmp_path_factory))


def compared(
    folder: Path, options: EngineOptions, stop_at: str = "", **given: Any
) -> tuple[RecommendationRecord, list[str]]:
    """The record of a comparison on digits without their calibration part, and its messages."""
    parameters = RecommendParameters(**{**FAST, **given})
    dataset = load_dataset("mnist-mini", None, config=ImageOptions.model_validate(parameters.image_settings))
    dataset = replace(dataset, calibration=cast(Images, Untouchable()))
    events: list[dict[str, Any]] = []

    def should_stop() -> bool:
        return any(stop_at and event.get("message", "").startswith(stop_at) for event in events)

    record = compare_families(
        dataset, parameters, folder, observe=events.append, should_stop=should_stop, options=options
    )
    metrics = [event for event in events if event["event"] == "metrics"]
    shares = [event["progress"] for event in metrics]
    assert shares == sorted(shares)
    assert (shares[-1], metrics[-1]["eta_seconds"]) == (1, 0)
    return record, [event["message"] for event in events if event["event"] == "log"]


def test_a_size_that_a_pixel_flow_refuses_leaves_features_and_an_interrupted_comparison_goes_on(
    tmp_path: Path, options: EngineOptions
) -> None:
    with pytest.raises(Interrupted):
        compared(tmp_path, options, stop_at="defects", **ODD)
    stored = json.loads((tmp_path / "features" / "fit.json").read_text())
    record, messages = compared(tmp_path, options, **ODD)
    assert json.loads((tmp_path / "features" / "fit.json").read_text()) == stored
    assert not any(message.startswith("without features") for message in messages)
    features, pixels, hybrid = record.families
    assert pixels.unavailable is not None
    assert pixels.unavailable.startswith("snf-glow-small halves both sides")
    assert hybrid.unavailable == pixels.unavailable
    assert (features.held_out, features.baseline) == (stored["held_out"], stored["baseline"])
    assert features.held_out is not None
    assert features.baseline is not None
    assert features.held_out < features.baseline
    assert (record.proposal, record.preset, record.parameters) == ("features", "snf-features", {"image_size": [27, 27]})
    assert record.reasons[-1] == "the feature model is the only family that could be compared"
    assert (record.alpha, record.images.good_part, record.images.good) == (0.01, "statistics", 50)
    assert [curve.shape for curve in features.curves] == ["missing-part"]
    # Another seed is another comparison: what is stored does not serve it.
    with pytest.raises(Interrupted):
        compared(tmp_path, options, stop_at="anomaly statistics", seed=1, **ODD)
    assert json.loads((tmp_path / "features" / "fit.json").read_text())["plan"] != stored["plan"]


def test_without_a_backbone_and_with_an_odd_size_the_reasons_are_named(tmp_path: Path) -> None:
    empty = EngineOptions(backbones=tmp_path / "none")
    with pytest.raises(DatasetUnfit) as refused:
        compared(tmp_path / "run", empty, **ODD)
    assert "there is no backbone 'efficientnet-lite0' here: add it by `snf backbones add" in refused.value.detail
    assert "snf-glow-small halves both sides" in refused.value.detail


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, options: EngineOptions) -> WholeComparison:
    folder = tmp_path_factory.mktemp("whole")
    return folder, *compared(folder, options, **SHORT)


def test_all_families_are_compared_within_the_budget(whole: WholeComparison) -> None:
    _, record, messages = whole
    assert record.seconds < 42  # on a busy machine, too
    assert any(message.startswith("pixels: training for") for message in messages)
    features, pixels, hybrid = record.families
    assert [result.unavailable for result in record.families] == [None] * 3
    assert (features.unit, pixels.unit, hybrid.held_out) == ("nats/value", "bits/dim", pixels.held_out)
    assert pixels.held_out is not None
    assert pixels.baseline is not None
    assert pixels.held_out < pixels.baseline
    for result in record.families:
        assert result.undamaged is not None
        assert result.undamaged.flagged <= 5
        assert result.seconds_per_1000
    assert features.fit_seconds is not None
    assert hybrid.fit_seconds == pytest.approx((pixels.fit_seconds or 0) + features.fit_seconds)
    assert pixels.steps
    assert features.steps is None


def test_a_family_that_overflows_on_a_reference_image_is_left_out(
    whole: WholeComparison, tmp_path: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fits are those of the whole comparison."""
    shutil.copytree(whole[0], tmp_path, ignore=shutil.ignore_patterns("cells"), dirs_exist_ok=True)
    plan = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"spent": 0}))
    collect = compare.collect_evidence

    def overflowing(density: Any, *arguments: Any) -> ReferenceEvidence:
        if density.kind == "density":
            raise ScoreNotFinite("the flow overflows on image 3")
        return collect(density, *arguments)

    monkeypatch.setattr(compare, "collect_evidence", overflowing)
    record, _ = compared(tmp_path, options, **SHORT)
    reasons = {result.family: result.unavailable for result in record.families}
    assert reasons["features"] is None
    assert reasons["pixels"] == "the flow overflows on image 3"
    assert reasons["hybrid"]
    assert record.proposal == "features"


def test_a_pixel_flow_that_does_not_fit_takes_smaller_images(
    tmp_path: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "MAX_SIDE", 32)
    record, _ = compared(tmp_path, options, image_size=48, minutes=0.3)
    features, pixels, hybrid = record.families
    assert (features.unavailable, pixels.unavailable) == (None, None)
    assert pixels.undamaged is not None
    assert any(note.startswith("the pixel flow takes the images at 32x32: ") for note in record.notes)
    assert hybrid.unavailable is not None
    assert hybrid.unavailable.endswith("snf recommend mnist-mini --set image_size=32")
    size = 32 if record.proposal == "pixels" else [48, 48]
    assert record.parameters["image_size"] == size
