"""Statistics that are fitted to few images: what they have not seen is not taken for strange."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.anomaly.calibrate import fit_split
from snf_models.anomaly.reference_images import reference_of
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.datasets import Dataset
from snf_models.evaluation.image_sets import Corruption, corrupt
from snf_models.evaluation.metrics import separation
from snf_models.scorer import Scorer
from snf_runtime.anomaly.calibration import Calibration, from_arrays, to_arrays
from snf_runtime.anomaly.statistics import Statistic
from snf_runtime.images.batch import stacked
from snf_runtime.scoring.evidence import Evidence
from tests.models.anomaly import evidences
from tests.models.helpers import real_images

MEDIAN = math.log(2)
"""Median of -ln p of images like those that a group was fitted to."""


def evidence_of(scorer: Scorer, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Evidence:
    scored = scorer.score(images)
    return Evidence.join([one.evidence for one in scored])


@pytest.mark.parametrize("count", [40, 100, 300])
def test_new_images_are_as_surprising_as_those_of_the_fit(count: int) -> None:
    fitted, new = (evidences.evidence(images, seed) for images, seed in ((count, 1), (2000, 2)))
    surprises = fit_statistic(fitted, evidences.NAMES, evidences.GRID).group_surprises(new)
    assert (np.abs(np.median(surprises, axis=0) - MEDIAN) < 0.45).all()
    assert ((surprises > -math.log(0.05)).mean(0) < 0.15).all()
    in_sample = fit_statistic(fitted, evidences.NAMES, evidences.GRID, few=0).group_surprises(new)
    assert (np.median(in_sample, axis=0) > np.median(surprises, axis=0)).all()
    if count == 40:
        assert ((in_sample > -math.log(0.05)).mean(0) > 0.3).any(), "a group would hide the others"


def test_a_recalibration_holds_out_all_images_of_a_part_together(scorer: Scorer) -> None:
    """Six nearly equal images each of 60 parts follow each other in the dataset: in random order no fold is new."""
    generator = np.random.default_rng(0)
    parts = evidences.evidence(60, 1)

    def images_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
        repeated = values.repeat(6, axis=0)
        return repeated + 0.05 * values.std(0) * generator.standard_normal(repeated.shape)

    images = replace(parts, whole=images_of(parts.whole), cells=images_of(parts.cells))
    numbered = np.zeros((360, 1, 28, 28), np.uint8)
    numbered[:, 0, 0, 0], numbered[:, 0, 0, 1] = np.divmod(np.arange(360), 256)
    dataset = Dataset("parts", numbered, numbered[:20], numbered[:20], numbered[:0], digest="another")
    first = stacked(reference_of(dataset, scorer.manifest).statistics[:360])[:, 0, 0]
    order = first[:, 0].astype(int) * 256 + first[:, 1]
    statistic = fit_statistic(images[order], evidences.NAMES, evidences.GRID)
    surprises = statistic.group_surprises(evidences.evidence(2000, 2))
    assert (np.median(surprises, axis=0) < 1).all()


@pytest.mark.parametrize(
    ("count", "knots", "components"), [(44, 1, 1), (60, 2, 1), (240, 2, 1), (260, 4, 1), (1200, 4, 1), (1300, 4, 2)]
)
def test_fits_of_folds_are_as_complex_as_that_of_all_images(count: int, knots: int, components: int) -> None:
    """Four fifths of the images decide: from 40 on means are lines of complexity, from 200 on curves."""
    statistic = fit_statistic(evidences.evidence(count, 1), evidences.NAMES, evidences.GRID)
    assert len(statistic.local.conditioning.knots) == len(statistic.whole.conditioning.knots) == knots
    assert [len(view.density.log_weights) for view in statistic.whole.views[1:]] == [components] * 2


@pytest.mark.parametrize("count", [2, 9, 10, 11, 19])
def test_a_handful_of_images_can_be_fitted(count: int) -> None:
    fitted = evidences.evidence(count, 1)
    statistic = fit_statistic(fitted, evidences.NAMES, evidences.GRID)
    assert np.isfinite(statistic(evidences.evidence(50, 2))).all()


def test_survival_functions_of_many_images_are_those_of_the_fit() -> None:
    many = evidences.evidence(2000, 1)
    new = evidences.evidence(50, 2)
    values = fit_statistic(many, evidences.NAMES, evidences.GRID)(new)
    in_sample = fit_statistic(many, evidences.NAMES, evidences.GRID, few=0)
    np.testing.assert_array_equal(in_sample(new), values)


def test_blurred_digits_stand_out_from_few_digits(scorer: Scorer) -> None:
    """Of 60 digits; by survival functions of the fit the digits' regions hide most of it."""
    digits = real_images(300)
    fitted, normal = evidence_of(scorer, digits[:60]), evidence_of(scorer, digits[60:180])
    blurred = evidence_of(scorer, corrupt(digits[180:], Corruption("blur", 0.4)))

    def area(statistic: Statistic) -> float:
        return separation(statistic(normal), statistic(blurred)).auroc

    found = area(fit_statistic(fitted, scorer.density.statistics, scorer.density.grid))
    before = area(fit_statistic(fitted, scorer.density.statistics, scorer.density.grid, few=0))
    assert found > before


def test_evidence_without_channels_is_judged_as_by_earlier_versions(scorer: Scorer) -> None:
    """A calibration that knows no channels gives the same verdicts, whether the evidence has them or not."""
    digits = real_images(200)
    with_channels = evidence_of(scorer, digits)
    assert with_channels.channels is not None
    names = tuple(
        name for name in scorer.density.statistics if name.partition("-")[0] not in ("energy", "falling", "rising")
    )
    former = replace(with_channels, channels=None)
    reference = replace(evidences.reference(1), evidence=former, log_likelihoods=former.whole[:, 2])
    earlier = fit_split(reference, reference, names, scorer.density.grid)
    [fold] = earlier.folds
    assert len(fold.statistic.whole.views) == 3
    stored = from_arrays(Calibration, to_arrays(earlier))
    np.testing.assert_array_equal(stored.p_values(with_channels), earlier.p_values(former))
    assert stored.judge(with_channels[:20], scorer.density.statistics, (28, 28)) == earlier.judge(
        former[:20], names, (28, 28)
    )
