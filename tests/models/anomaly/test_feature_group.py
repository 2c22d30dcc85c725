"""Statistics of features by hand, and cross-conformal calibrations whose folds have fits of their own."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from snf_models.anomaly.calibrate import ReferenceEvidence, fit_cross, fit_split
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_runtime.anomaly.calibration import CELLS, Calibration, from_arrays, statistic_cells, to_arrays
from snf_runtime.anomaly.statistics import (
    FEATURE_STATISTICS,
    EvidenceKind,
    FeatureGroup,
    HeldOutSurprises,
    Statistic,
    merge,
    weights,
)
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from tests.models.anomaly import evidences

ROWS, COLUMNS = 4, 6
IMAGE = (40, 60)


def of_features(count: int, seed: int = 0, fits: int = 1) -> FeatureEvidence:
    """Return negative log-densities as a flow over five features gives them, larger at some places than at others."""
    generator = np.random.default_rng(seed)
    level = np.linspace(0, 9, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    places = 0.5 * generator.chisquare(5, (count, fits, ROWS, COLUMNS)) + level
    return FeatureEvidence(places, 0.5 * generator.chisquare(8, (count, fits, 2)))


def evidence(count: int, seed: int = 0, fits: int = 1) -> Evidence:
    nothing = np.zeros((count, 0))
    return Evidence(nothing, nothing, features=of_features(count, seed, fits))


def reference(count: int, seed: int = 0, fits: int = 1) -> ReferenceEvidence:
    found = evidence(count, seed, fits)
    maps = np.random.default_rng(seed).normal(size=(count, *IMAGE))
    return ReferenceEvidence(found, -found.features.places[:, 0].sum((1, 2)), maps.sum(0), np.square(maps).sum(0))


def test_statistics_by_hand() -> None:
    fitted, new = of_features(200), of_features(9, 1)
    family = FeatureGroup.fit(fitted)
    centred = new.places[:, 0] - fitted.places[:, 0].mean(0)
    found = family.statistics(new)
    for image in range(9):
        values = np.sort(centred[image].ravel())[::-1]
        assert found[image, 0] == pytest.approx(values[0])
        assert found[image, 1] == pytest.approx(values[:2].mean())  # a twentieth of 24 places, rounded up
        np.testing.assert_array_equal(found[image, 2:], new.pooled[image, 0])


def test_a_place_that_is_always_unlikely_does_not_decide() -> None:
    """The last place is 9 nats less likely than the first in every image; a defect at the first one is found."""
    family = FeatureGroup.fit(of_features(300))
    new = of_features(40, 1)
    before = family.surprise(new)
    new.places[:, 0, 0, 0] += 12
    assert (family.surprise(new) > before).all()
    found = family.strongest(new)
    assert [place for _, _, place in found] == [(0, 0)] * 40
    assert {name for name, _, _ in found} <= set(FEATURE_STATISTICS)


def test_the_merged_surprise_by_hand() -> None:
    family = FeatureGroup.fit(of_features(300))
    new = of_features(20, 1)
    p = np.exp(-family.surprises(new))
    merged = -np.log(1 / (p**-1.0 @ np.array([2, 2, 1, 1]) / 6))
    np.testing.assert_allclose(family.surprise(new), family.joint.surprise(merged), rtol=1e-9)


def test_a_group_that_is_surprised_by_all_new_images_weighs_less() -> None:
    likely = np.random.default_rng(0).exponential(size=4001)
    held_out = HeldOutSurprises.fit(np.stack([10 * likely, likely / 2, likely], 1), np.ones(3))
    np.testing.assert_allclose(held_out.inflation, [10, 1, 1], rtol=0.05)
    kinds: tuple[EvidenceKind, ...] = ("whole", "local", "features")
    np.testing.assert_allclose(weights(kinds, held_out) * 13.5, [1, 2.5, 10], rtol=0.05)


@pytest.mark.parametrize(("images", "at_most"), [(150, 150 / 2000), (1000, 0.5), (2000, 1.0)])
def test_pixels_of_few_images_weigh_less_than_features(images: int, at_most: float) -> None:
    """Whole image and regions, against features; the measured overfitting of 150 images alone gives 0.74 and 0.11."""
    both = replace(evidences.evidence(images, 1), features=of_features(images))
    of_image, of_regions, of_both = fit_statistic(both, evidences.NAMES, evidences.GRID).weights
    assert of_image <= 1.1 * at_most * of_both
    assert of_regions <= 1.1 * 0.25 * at_most * of_both
    if images == 2000:
        assert of_image > 0.9 * of_both, "the weights of many images are those of the groups"


@pytest.mark.parametrize(("ratio", "named"), [(2.0, "feature-place"), (4.0, "feature-image")])
def test_the_whole_image_is_the_reason_only_where_it_is_three_times_as_unlikely(ratio: float, named: str) -> None:
    family = FeatureGroup.fit(of_features(300))
    new = of_features(1, 1)
    new.places[0, 0, 2, 3] += 20

    def excess(pooled: float) -> float:
        new.pooled[0, 0, 1] = pooled
        place, _, _, image = family.surprises(new)[0]
        return float(image - place - np.log(ratio))

    new.pooled[0, 0, 1] = brentq(excess, 4, 1e4)
    [(name, _, place)] = family.strongest(new)
    assert (name, place) == (named, (2, 3))


def test_verdicts_and_reasons_of_features_alone() -> None:
    calibration = fit_split(reference(200, 1), reference(99, 2), (), None)
    new = evidence(50, 3)
    verdicts = calibration.judge(new, (), IMAGE, alpha=0.05)
    statistic = calibration.folds[0].statistic
    assert statistic.whole is None
    assert statistic.local is None
    t, held_out = statistic(new), np.sort(statistic(evidence(99, 2)))
    np.testing.assert_allclose(calibration.folds[0].ordered, held_out)
    assert [one.p_value for one in verdicts] == [(1 + int((held_out >= value).sum())) / 100 for value in t]
    assert np.mean([one.is_anomaly for one in verdicts]) <= 0.2

    new.features.places[:, 0, 1, 2] += 25
    (first, *_) = calibration.judge(new, (), IMAGE, alpha=0.05)
    assert first.is_anomaly
    assert first.extrapolated
    (reason,) = first.reasons
    assert reason.feature in ("feature-place", "feature-area")
    assert reason.box == (20, 10, 30, 20)
    assert "rows 10-19, columns 20-29" in reason.text
    assert reason.share == 1


@pytest.mark.parametrize(("group", "name"), [(0, "feature-mean"), (1, "feature-image")])
def test_an_image_as_a_whole_has_no_box(group: int, name: str) -> None:
    calibration = fit_split(reference(200, 1), reference(99, 2), (), None)
    new = evidence(1, 3)
    new.features.pooled[..., group] += 60
    (verdict,) = calibration.judge(new, (), IMAGE)
    assert verdict.reasons[0].feature == name
    assert verdict.reasons[0].box is None


def test_each_fold_is_ranked_by_its_own_fit() -> None:
    """Six fits of 50 images: a fold's images by its fit, statistics fitted to what no fit had seen."""
    folds = (np.arange(50) % 5).astype(np.int8)
    everything = reference(50, 1, fits=6)
    unseen = tuple(of_features(40, 10 + fold) for fold in range(5))
    calibration = fit_cross(everything, folds, (), None, unseen=unseen)
    new = of_features(30, 4, fits=6)
    expected = np.ones(30)
    for fold in range(5):
        family = FeatureGroup.fit(unseen[fold])
        inside = everything.evidence.features[folds == fold]
        own = FeatureEvidence(inside.places[:, [fold + 1]], inside.pooled[:, [fold + 1]])
        of_new = FeatureEvidence(new.places[:, [fold + 1]], new.pooled[:, [fold + 1]])
        ranked, values = family.surprise(own), family.surprise(of_new)
        expected += (ranked[None] >= values[:, None]).sum(1)
    nothing = np.zeros((30, 0))
    np.testing.assert_allclose(calibration.p_values(Evidence(nothing, nothing, features=new)), expected / 51)
    assert calibration.smallest_p == 1 / 51


def with_outliers(images: int, outliers: NDArray[np.integer]) -> ReferenceEvidence:
    """Reference images with anomaly maps, of which some are unlikely at a place."""
    everything = replace(reference(images, 1), image=IMAGE)
    everything.evidence.features.places[outliers, 0, 1, 2] += 200
    return everything


def outlier() -> Evidence:
    """Return an image that is even less likely: with few images a fit may have seen an outlier."""
    new = evidence(1, 3)
    new.features.places[:, 0, 1, 2] += 400
    return new


@pytest.mark.parametrize(
    ("images", "suspect_share", "suspects"), [(50, 0.05, 2), (50, 0.06, 3), (120, 0.02, 2), (20, 0.15, 3)]
)
def test_suspects_keep_their_ranks(images: int, suspect_share: float, suspects: int) -> None:
    everything = with_outliers(images, np.arange(suspects))
    calibration = fit_cross(everything, np.arange(images) % 5, (), None, suspect_share)
    assert calibration.images == images
    assert len(calibration.map_maxima) == images
    assert (calibration.map_maxima[-suspects:] > 100).all()
    [p] = calibration.p_values(outlier())
    assert p <= (1 + suspects) / (images + 1), "no other image is above it"


def test_a_fold_without_values_loads_as_earlier_versions_wrote_it() -> None:
    """They left suspects out of the ranks, so that a fold of suspects alone had none."""
    folds = np.arange(20) % 5
    calibration = fit_cross(with_outliers(20, np.flatnonzero(folds == 2)), folds, (), None, 0.2)
    empty = replace(calibration.folds[2], ordered=np.zeros(0), map_maxima=np.zeros(0))
    calibration = replace(calibration, folds=(*calibration.folds[:2], empty, *calibration.folds[3:]))
    assert calibration.map_maxima is not None
    assert len(calibration.map_maxima) == calibration.distribution(5).counts.sum() == 16
    again = from_arrays(Calibration, to_arrays(calibration))
    assert again.p_values(outlier()).tolist() == [1 / 17]
    [verdict] = again.judge(outlier(), (), IMAGE, alpha=0.1)
    assert verdict.is_anomaly
    assert verdict.reasons[0].feature == "feature-place"


def test_statistics_of_pixels_that_fit_too_well_do_not_hide_features() -> None:
    """Of 60 images, those of pixels are far more surprised by new images than by those that they were fitted to."""

    def both(count: int, seed: int) -> Evidence:
        return replace(evidences.evidence(count, seed), features=of_features(count, seed))

    statistic = fit_statistic(both(60, 1), evidences.NAMES, evidences.GRID)
    assert statistic.kinds == ("whole", "local", "features")
    new, strange = both(400, 2), both(40, 3)
    assert (np.median(statistic.group_surprises(new), axis=0) < 1.5).all()
    plain = replace(statistic, held_out=None)
    assert (np.median(plain.group_surprises(new), axis=0)[:2] > 1.5).any()
    strange.features.places[:, 0, 1, 2] += 25
    assert len(set(statistic.weights.tolist())) == 3
    np.testing.assert_array_equal(statistic(new), merge(statistic.group_surprises(new), statistic.weights))
    assert np.quantile(statistic(new), 0.95) < np.median(statistic(strange))
    again = from_arrays(Statistic, to_arrays(statistic))
    np.testing.assert_array_equal(again(new), statistic(new))


def test_drift_is_tested_among_the_images_of_the_first_fold() -> None:
    held_out = reference(200, 2)
    calibration = fit_cross(held_out, np.arange(200) % 5, (), None)
    first = calibration.folds[0]
    assert sum(calibration.statistic_counts) == len(first.ordered) == 40
    evidence = held_out.evidence[np.arange(200) % 5 == 0]
    verdicts = calibration.judge(evidence, (), (8, 8))
    ranked = [verdict.first_fold_statistic for verdict in verdicts]
    np.testing.assert_allclose(np.sort(ranked), first.ordered)
    assert ranked != [verdict.statistic for verdict in verdicts]
    assert np.bincount(statistic_cells(ranked), minlength=CELLS).tolist() == [*calibration.statistic_counts]
