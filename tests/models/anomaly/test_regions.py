"""Anomaly maps and their regions: by hand, over resplits of normal images, and for calibrations without thresholds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from snf_models.anomaly.calibrate import ReferenceEvidence, collect_evidence, fit_cross, fit_split
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.artifacts.files import CALIBRATION
from snf_models.datasets import load_dataset
from snf_models.errors import ArtifactError
from snf_models.registry.calibrations import load_calibration, save_calibration
from snf_models.scorer import Scorer, load_model
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.detection import Detection
from snf_runtime.anomaly.maps import find_regions, of_pixels, of_places
from snf_runtime.anomaly.verdict import VerdictReason, located
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import HybridDensity
from tests.models.anomaly.test_feature_group import IMAGE, evidence, reference
from tests.models.helpers import sign_again
from tests.support.compiled_cache import compiled

ALPHA = 0.05


def with_maps(count: int, seed: int, fits: int = 1) -> ReferenceEvidence:
    return replace(reference(count, seed, fits), image=IMAGE)


def calibration() -> Calibration:
    return fit_split(with_maps(200, 1), with_maps(99, 2), (), None)


def stained(count: int = 1) -> Evidence:
    """Images with a stain over six of the 24 places: rows 10 to 30 and columns 20 to 50 of 40x60 pixels."""
    new = evidence(count, 3)
    new.features.places[:, 0, 1:3, 2:5] += 25
    return new


def test_places_are_interpolated_between_their_centres() -> None:
    places = np.random.default_rng(0).normal(size=(4, 6))
    brought = of_places(places, (12, 30))
    for row, column in np.ndindex(12, 30):
        y, x = np.clip((row + 0.5) / 3 - 0.5, 0, 3), np.clip((column + 0.5) / 5 - 0.5, 0, 5)
        top, left = min(int(y), 2), min(int(x), 4)
        corners = places[top : top + 2, left : left + 2]
        down, across = np.array([1 - (y - top), y - top]), np.array([1 - (x - left), x - left])
        assert brought[row, column] == pytest.approx(down @ corners @ across)
    assert brought[1, 2] == pytest.approx(places[0, 0]), "the middle pixel of the first place"
    np.testing.assert_allclose(of_places(places[None].repeat(2, 0), (12, 30))[1], brought)
    assert of_places(places, (3, 3)).shape == (3, 3)


def test_a_stain_over_many_places_gets_one_box_that_covers_it() -> None:
    fitted = calibration()
    (verdict,) = fitted.judge(stained(), (), IMAGE, ALPHA)
    (regions,) = fitted.feature_regions(stained(), IMAGE, ALPHA)
    assert regions.count == 1
    left, top, right, bottom = regions.regions[0].box
    covered = max(0, min(right, 50) - max(left, 20)) * max(0, min(bottom, 30) - max(top, 10))
    assert covered >= 0.9 * 30 * 20
    assert (right - left) * (bottom - top) <= 2 * 30 * 20
    (reason,) = verdict.reasons
    assert reason.box == regions.regions[0].box
    assert f"rows {top}-{bottom - 1}, columns {left}-{right - 1}" in reason.text


def test_an_unlikely_part_has_the_box_of_the_region_around_it() -> None:
    anomaly = np.zeros((20, 20))
    anomaly[2:12, 3:9], anomaly[15:19, 15:19] = 5, 9
    regions = find_regions(anomaly, 1.0).regions
    unlikely = VerdictReason("region", -4.0, 0.9, "{where}: less likely", (4, 4, 8, 8))
    found = located(unlikely, regions)
    assert (found.box, found.text) == ((3, 2, 9, 12), "rows 2-11, columns 3-8: less likely")
    for kept in (replace(unlikely, z=4.0), replace(unlikely, box=(10, 0, 14, 4)), replace(unlikely, box=None)):
        assert located(kept, regions) == kept
    assert located(unlikely, ()) == unlikely


def test_an_image_below_the_threshold_has_no_region_and_keeps_its_place() -> None:
    fitted = calibration()
    usual = evidence(40, 5)
    limit = fitted.map_threshold(ALPHA)
    # Of 99 images four may be at or above it, as (1 + 4) / 100 is alpha.
    assert (fitted.map_maxima >= limit).sum() == 4
    assert usual.features is not None
    for found, places in zip(
        fitted.feature_regions(usual, IMAGE, ALPHA), fitted.feature_maps(usual.features), strict=True
    ):
        assert (found.count > 0) == (of_places(places, IMAGE).max() >= limit)
    (verdict, *_) = fitted.judge(usual, (), IMAGE, ALPHA)
    boxes = [reason.box for reason in verdict.reasons if reason.box is not None]
    assert all((right - left, bottom - top) == (10, 10) for left, top, right, bottom in boxes)


def test_a_calibration_without_maxima_has_no_regions(tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    save_calibration(calibration(), path)
    save_file({name: one for name, one in load_file(path).items() if "map_maxima" not in name}, path)
    earlier = load_calibration(path)
    assert earlier.map_maxima is None
    assert earlier.map_threshold(ALPHA) is None
    assert earlier.feature_regions(stained(2), IMAGE, ALPHA) == [None, None]
    (now,), (before,) = (one.judge(stained(), (), IMAGE, ALPHA) for one in (calibration(), earlier))
    assert (now.p_value, now.statistic) == (before.p_value, before.statistic)
    left, top, right, bottom = before.reasons[0].box or (0, 0, 0, 0)
    assert (right - left, bottom - top) == (10, 10)


def test_maxima_of_another_number_of_images_are_refused(artifact: Path, tmp_path: Path) -> None:
    arrays = load_file(artifact / CALIBRATION)
    names = [name for name in arrays if name.endswith("map_maxima")]
    assert names
    damaged = {**arrays, names[0]: arrays[names[0]][:-1]}
    for file in artifact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(damaged, tmp_path / CALIBRATION)
    sign_again(tmp_path)
    with pytest.raises(ArtifactError, match="maxima"):
        load_model(tmp_path, options=compiled())


@pytest.mark.parametrize("folds", [1, 5])
def test_the_share_of_normal_images_with_a_region_keeps_alpha(folds: int) -> None:
    """Each resplit of stored evidence is a draw of a Beta-binomial variable; 99 % of them are in its interval."""
    everything, tests = evidence(1200, 11), 300
    random = np.random.default_rng(0)
    outside, resplits, shares = 0, 60, []
    for _ in range(resplits):
        order = random.permutation(len(everything))
        parts = [everything[rows] for rows in np.split(order, [200, 399, 399 + tests])[:3]]
        fit, held_out = (ReferenceEvidence(one, np.zeros(len(one)), None, None, image=IMAGE) for one in parts[:2])
        if folds == 1:
            fitted = fit_split(fit, held_out, (), None)
        else:
            fitted = fit_cross(held_out, np.arange(len(parts[1])) % folds, (), None)
        regions = fitted.feature_regions(parts[2], IMAGE, ALPHA)
        share = float(np.mean([one is not None and one.count > 0 for one in regions]))
        low, high = false_alarm_interval(len(parts[1]), tests, ALPHA)
        outside += not low <= share <= high
        shares.append(share)
    assert outside <= 3, "of 60 at most 3, with a probability of 99.7 %"
    assert np.mean(shares) == pytest.approx(ALPHA, abs=0.015)


def test_maxima_of_pixels_are_those_of_maps_by_other_images(scorer: Scorer) -> None:
    """A split: the reference is the statistics part. Folds: that of all other images."""
    digits = load_dataset("mnist-mini", None)
    maxima = scorer.calibration.map_maxima
    assert maxima is not None
    if len(scorer.calibration.folds) > 1:
        nats = np.stack([one.nats for one in scorer.heat_maps(digits.statistics)]).astype(np.float32)
        assert digits.folds is not None
        expected = np.concatenate([_maxima(nats, digits.folds == fold) for fold in np.unique(digits.folds)])
    else:
        expected = np.array([one.anomaly.max() for one in scorer.heat_maps(digits.calibration)])
    np.testing.assert_allclose(maxima, np.sort(expected), rtol=1e-4, atol=1e-4)


def _maxima(nats: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    others = nats[~inside].astype(np.float64)
    deviation = others.std(0)
    deviation = np.maximum(deviation, 0.1 * np.median(deviation))
    largest: NDArray[np.float64] = of_pixels((nats[inside] - others.mean(0)) / deviation).max((1, 2))
    return largest


def judged(scorer: Scorer, image: NDArray[np.uint8], alpha: float, *, explain: bool) -> Detection:
    [result] = scorer.detect(image, alpha, explain=explain)
    return result


def test_pixels_have_regions_with_a_heat_map_and_features_always(scorer: Scorer, features: Scorer) -> None:
    image = load_dataset("mnist-mini", None).test[:1].copy()
    image[:, :, 2:14, 8:24] = np.random.default_rng(0).integers(0, 256, (12, 16))
    assert judged(scorer, image, 0.05, explain=False).regions is None
    assert judged(scorer, image, 0.05, explain=True).regions is not None
    plain, explained = (judged(features, image, 0.1, explain=explain) for explain in (False, True))
    assert explained.verdict == plain.verdict
    (region, *_) = explained.regions.regions
    (reason, *_) = [one for one in plain.verdict.reasons if one.box is not None]
    assert reason.box == region.box
    left, top, right, bottom = region.box
    assert max(0, min(right, 24) - max(left, 8)) * max(0, min(bottom, 14) - max(top, 2)) >= 0.9 * 16 * 12


def test_the_map_of_a_hybrid_is_that_of_its_features(hybrid: Scorer) -> None:
    digits = load_dataset("mnist-mini", None).test[:3]
    found = collect_evidence(hybrid.density, digits).evidence.features
    assert found is not None
    expected = [of_places(places, (28, 28)) for places in hybrid.calibration.feature_maps(found)]
    for one, other in zip(hybrid.heat_maps(digits), expected, strict=True):
        np.testing.assert_allclose(one.anomaly, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["hybrid", "features"])
def test_scores_and_maps_come_from_the_same_pass(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    scorer: Scorer = request.getfixturevalue(kind)
    draws = 3
    digits = load_dataset("mnist-mini", None).test[:25]  # more than one group of 64 draws, whose end cuts an image
    plain, maps = scorer.detect(digits, draws=draws), scorer.heat_maps(digits)
    features = scorer.density.features if isinstance(scorer.density, HybridDensity) else scorer.density
    squares, computed = features.engine.squares, []

    def noted(images: NDArray[np.uint8]) -> Any:
        computed.append(len(images))
        return squares(images)

    monkeypatch.setattr(features.engine, "squares", noted)
    for one, other, expected in zip(scorer.detect(digits, draws=draws, explain=True), plain, maps, strict=True):
        assert one.likelihood.log_likelihood == other.likelihood.log_likelihood
        assert one.verdict.p_value == other.verdict.p_value
        for name, values in one.heat_map.channels.items():
            np.testing.assert_array_equal(values, expected.channels[name])
    assert sum(computed) == len(digits)
