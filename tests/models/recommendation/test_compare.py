"""Comparisons of real families on real digits, within seconds: what is measured, what is missing, and going on."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from snf_client.schemas.limits import LimitCurve, Shape
from snf_client.schemas.recommendations import (
    ComparedImages,
    FamilyName,
    FamilyResult,
    RecommendationRecord,
    RecommendParameters,
)
from snf_client.schemas.training import ImageOptions
from snf_models.datasets import Dataset, Images, load_dataset
from snf_models.errors import DatasetUnfit, Interrupted, ScoreNotFinite
from snf_models.limits.good_images import GoodImages
from snf_models.limits.measure import defect_sizes, limit_cell, measure_limits
from snf_models.recommendation import compare
from snf_models.recommendation.compare import choose_images, compare_families
from snf_models.recommendation.rule import PRESET_OF, limit_cell_text, limit_rank, mean_rank, propose, typical_limit
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from tests.support.backbones import backbone_folder

FAST: dict[str, Any] = {"feature_side": 32, "shapes": ("missing-part",)}
SHORT: dict[str, Any] = {"image_size": 16, "minutes": 0.1}
ODD = {"image_size": 27}
"""A size that no pixel flow takes: what is left is fitted in closed form."""

Compared = tuple[Path, RecommendationRecord]


class Untouchable:
    """A part of a dataset that must not be used in any way."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the part is touched: {name}")

    def __len__(self) -> int:
        raise AssertionError("the part is counted")

    def __getitem__(self, rows: object) -> Any:
        raise AssertionError("the part is read")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    return EngineOptions("torch", threads=1, backbones=backbone_folder(tmp_path_factory))


def compared(folder: Path, options: EngineOptions, stop_at: str = "", **given: Any) -> RecommendationRecord:
    """The record of a comparison on digits of the train part alone."""
    parameters = RecommendParameters(**{**FAST, **given})
    dataset = load_dataset("mnist-mini", None, config=ImageOptions.model_validate(parameters.image_settings))
    other = cast(Images, Untouchable())
    dataset = replace(dataset, statistics=other, calibration=other, test=other)
    events: list[dict[str, Any]] = []

    def should_stop() -> bool:
        return any(stop_at and event.get("message", "").startswith(stop_at) for event in events)

    record = compare_families(
        dataset, parameters, folder, observe=events.append, should_stop=should_stop, options=options
    )
    metrics = [event for event in events if event["event"] == "metrics"]
    shares = [event["progress"] for event in metrics]
    assert shares == sorted(shares)
    assert (shares[-1], metrics[-1]["eta_seconds"]) == (pytest.approx(1), pytest.approx(0))
    return record


def test_a_size_that_a_pixel_flow_refuses_leaves_features_and_an_interrupted_comparison_goes_on(
    tmp_path: Path, options: EngineOptions
) -> None:
    with pytest.raises(Interrupted):
        compared(tmp_path, options, stop_at="features: detection limits", **ODD)
    (artifact,) = tmp_path.glob("*/features/artifact")
    trained = (artifact / "manifest.json").stat()
    record = compared(tmp_path, options, **ODD)
    assert (artifact / "manifest.json").stat() == trained
    features, pixels, hybrid = record.families
    assert pixels.unavailable.startswith("snf-glow-small halves both sides")
    assert hybrid.unavailable is not None
    assert features.held_out < features.baseline
    assert (record.proposal, record.preset, record.parameters) == ("features", "snf-features", {"image_size": [27, 27]})
    assert record.reasons == ("the feature model is the only family that could be compared",)
    # Another seed is another comparison: what is stored does not serve it.
    with pytest.raises(Interrupted):
        compared(tmp_path, options, stop_at="features: detection limits", seed=1, **ODD)
    assert len(list(tmp_path.glob("*/features/artifact"))) == 2


def test_without_a_backbone_and_with_an_odd_size_all_reasons_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnfit) as refused:
        compared(tmp_path / "run", EngineOptions(backbones=tmp_path / "none"), **ODD)
    assert "there is no backbone 'efficientnet-lite0' here: add it by `snf backbones add" in refused.value.detail
    assert "snf-glow-small halves both sides" in refused.value.detail


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, options: EngineOptions) -> Compared:
    folder = tmp_path_factory.mktemp("whole")
    return folder, compared(folder, options, **SHORT)


def test_all_families_are_trained_and_their_limits_are_those_of_the_trained_models(
    whole: Compared, options: EngineOptions
) -> None:
    folder, record = whole
    features, pixels, hybrid = record.families
    assert [result.unavailable for result in record.families] == [None] * 3
    assert (features.unit, pixels.unit, hybrid.unit) == ("nats/value", "bits/dim", "bits/dim")
    for result in record.families:
        assert result.undamaged.flagged <= 5
        assert result.fit_seconds
        assert result.seconds_per_1000
        assert result.image_shape == record.image_shape == (1, 16, 16)
    assert pixels.steps
    assert features.steps is None
    (artifact,) = folder.glob("*/features/artifact")
    scorer = load_model(artifact, None, options)
    parameters = RecommendParameters(**FAST, **SHORT)
    dataset = load_dataset("mnist-mini", None, config=ImageOptions(image_size=(16, 16)))
    good = GoodImages("mnist-mini", "", np.asarray(choose_images(dataset, parameters.alpha, 0).test))
    limits = measure_limits(scorer, good, compare.LimitParameters(alpha=record.alpha, shapes=("missing-part",)))
    assert (limits.curves, limits.undamaged) == (features.curves, features.undamaged)


def test_a_family_that_overflows_on_a_good_image_is_left_out(
    whole: Compared, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained again: the models are those of the whole comparison."""

    def overflowing(scorer: Scorer, *arguments: Any, **named: Any) -> Any:
        if scorer.density.kind == "density":
            raise ScoreNotFinite("the flow overflows on image 3")
        return measure_limits(scorer, *arguments, **named)

    monkeypatch.setattr(compare, "measure_limits", overflowing)
    record = compared(whole[0], options, **SHORT)
    assert [result.unavailable for result in record.families] == [None, *["the flow overflows on image 3"] * 2]
    assert record.families[0].curves == whole[1].families[0].curves
    assert record.proposal == "features"


def test_larger_images_are_made_smaller_for_a_pixel_flow_and_their_defects_keep_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "MAX_SIDE", 32)
    options = EngineOptions("torch", threads=1, backbones=tmp_path / "none")
    record = compared(tmp_path, options, image_size=48, minutes=0.02)
    pixels = record.families[1]
    assert (record.image_shape, pixels.image_shape) == ((1, 48, 48), (1, 32, 32))
    assert record.sizes == defect_sizes(48, 48)
    assert {cell.size for cell in pixels.curves[0].cells} <= {3, 4, 6, 9, 12, 18, 24}
    assert pixels.curves[0].cells[-1].size == 24
    assert record.notes[0].startswith("flows over pixels take the images at 32x32, ")
    assert (record.proposal, list(record.parameters["image_size"])) == ("pixels", [32, 32])


def numbered(train: int) -> Dataset:
    """A dataset whose images are their numbers, as base-256 digits in four pixels."""
    images = np.arange(train, dtype=">u4").view(np.uint8).reshape(-1, 1, 2, 2)
    none = cast(Images, Untouchable())
    return Dataset("numbers", images, none, none, none, "digest")


def numbers_of(images: Images) -> list[int]:
    return [int(number) for number in np.asarray(images).reshape(-1, 4).astype(np.int64) @ 256 ** np.arange(3, -1, -1)]


@pytest.mark.parametrize(
    ("train", "counts"),
    [(50_000, (2000, 500, 1000, 100)), (1_000, (480, 100, 220, 100)), (180, (86, 58, 0, 36))],
)
def test_the_images_are_disjoint_from_everywhere_in_the_train_part_and_few_rank_in_folds(
    train: int, counts: tuple[int, ...]
) -> None:
    chosen = choose_images(numbered(train), 0.01, 0)
    parts = [chosen.train, chosen.statistics, chosen.calibration, chosen.test]
    assert tuple(map(len, parts)) == counts
    numbers = [number for part in parts for number in numbers_of(part)]
    assert len(numbers) == len(set(numbers))
    assert len({10 * number // train for number in numbers_of(chosen.train)}) == 10
    assert (chosen.folds is None) is (len(chosen.calibration) > 0)
    assert numbers_of(choose_images(numbered(train), 0.01, 0).train) == numbers_of(chosen.train)
    assert numbers_of(choose_images(numbered(train), 0.01, 1).train) != numbers_of(chosen.train)


def test_too_few_images_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(DatasetUnfit, match="expected at least 100 of them, numbers has 99: upload more images"):
        choose_images(numbered(99), 0.01, 0)


def test_images_of_any_size_are_for_features_alone() -> None:
    with pytest.raises(ValidationError, match="so train snf-features"):
        RecommendParameters(fit="tiles")


def test_results_of_earlier_versions_are_read() -> None:
    numbers = {"fit": 2, "statistics": 1, "ranks": 0, "good": 1}
    assert ComparedImages.model_validate(numbers | {"good_part": "statistics"}).model_dump() == numbers


SIZES = (2, 3, 4, 6, 8, 12)
Limits = tuple[int | None, ...]


def curve(shape: Shape, contrast: int | None, limit: int | None) -> LimitCurve:
    cells = [limit_cell(size, 100 if limit is not None and size >= limit else 30, 100) for size in SIZES]
    return LimitCurve(shape=shape, contrast=contrast, cells=tuple(cells), limit=limit, lower=None)


def result(family: FamilyName, *limits: int | None) -> FamilyResult:
    """A family with these limits of a scratch of 64 and of 128 grey levels, and of a hole."""
    if not limits:
        return FamilyResult(family=family, preset=PRESET_OF[family], unavailable="no backbone")
    kinds: list[tuple[Shape, int | None]] = [("scratch", 64), ("scratch", 128), ("hole", None)]
    curves = tuple(curve(*kind, limit) for kind, limit in zip(kinds, limits, strict=True))
    rank = mean_rank(curves, SIZES)
    typical = typical_limit(rank, SIZES)
    return FamilyResult(family=family, preset=PRESET_OF[family], curves=curves, mean_rank=rank, typical_limit=typical)


def test_a_shape_counts_once_whatever_its_contrasts_and_a_missed_one_as_a_size_more() -> None:
    # Scratch: places 3 and 6 (none); hole: place 1.
    assert result("pixels", 6, None, 3).mean_rank == pytest.approx((4.5 + 1) / 2)
    assert limit_cell_text(curve("hole", None, 3)) == "3"
    assert limit_cell_text(curve("hole", None, None)) == "none (30% at 12)"
    # A limit of smaller images may lie between two sizes.
    assert limit_rank(curve("hole", None, 5), SIZES) == pytest.approx(2.5)


# One step of one of two contrasts of one of two shapes is a quarter; four of them are a whole one.
@pytest.mark.parametrize(
    ("features", "pixels", "hybrid", "proposed", "reason"),
    [
        pytest.param(
            (12, 6, 12), (None, 8, 2), (3, 2, 2), "hybrid",
            "typical limit 2.25 pixels of the hybrid model, 10 of the feature model; smaller in 3 of 3 kinds of "
            "defects, larger in 0", id="smallest",
        ),
        pytest.param(
            (12, 6, 12), (None, 8, 2), (), "pixels",
            "typical limit 5 pixels of the pixel flow, 10 of the feature model; smaller in 1 of 3 kinds of defects, "
            "larger in 2", id="one-missing",
        ),
        pytest.param(
            (4, 3, 2), (3, 3, 2), (3, 3, 2), "features",
            "within half a size the cheapest wins: the feature model before the pixel flow and the hybrid model",
            id="tie",
        ),
        pytest.param(
            (6, 3, 2), (3, 3, 2), (3, 3, 2), "features",
            "within half a size the cheapest wins: the feature model before the pixel flow and the hybrid model",
            id="half-a-size-exactly",
        ),
        pytest.param(
            (12, 3, 2), (3, 3, 2), (3, 3, 2), "pixels",
            "within half a size the cheapest wins: the pixel flow before the hybrid model", id="tie-of-two",
        ),
        pytest.param(
            (), (None, None, 12), (), "pixels", "the pixel flow is the only family that could be compared", id="alone"
        ),
        pytest.param(
            (), (), (), None, "no family has a detection limit that could be measured", id="none-measured"
        ),
        pytest.param(
            (None,) * 3, (None,) * 3, (None,) * 3, "features",
            "none of the families finds any of these defects in 90 % of the images, up to 12 pixels: the limits do "
            "not tell the families apart", id="nothing-found",
        ),
    ],
)  # fmt: skip
def test_the_proposal(features: Limits, pixels: Limits, hybrid: Limits, proposed: str | None, reason: str) -> None:
    results = [result("features", *features), result("pixels", *pixels), result("hybrid", *hybrid)]
    family, reasons = propose(results, SIZES)
    assert family == proposed
    assert reason in reasons
