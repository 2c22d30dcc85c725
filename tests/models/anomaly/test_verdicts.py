"""Verdicts of a loaded model: the same for the same image wherever, and those with gradients differ by them alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.anomaly.fitting.reference_images import ReferenceImages
from models.anomaly.gradients.passes import GradientPasses
from models.anomaly.gradients.per_image_gradients import GradientProbe
from models.datasets import load_dataset
from models.errors import GradientEvidenceUnavailable, ImageError
from models.loading.load_flows import load_artifact
from models.scorer import Scorer
from models.scoring.options import EngineOptions
from snf_runtime.anomaly.statistics.combined import merge, weights
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.likelihood import Likelihood
from tests.models.helpers import half_with_noise

STATISTICS = 1e-9
"""Relative, between the same statistic in one company and in another."""


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Digits, half of them with something that is not of a digit."""
    return half_with_noise(24)


def judged(scorer: Scorer, images: NDArray[np.uint8], draws: int = 1, *, gradients: bool = False) -> list[Verdict]:
    found = scorer.score_each(images, draws, gradients=gradients)
    return scorer.anomalies([one for one in found if not isinstance(one, ImageError)])


def evidence_of(scorer: Scorer, images: NDArray[np.uint8], draws: int = 1, *, gradients: bool = False) -> Evidence:
    found = scorer.score_each(images, draws, gradients=gradients)
    return Evidence.join([one.evidence for one in found if isinstance(one, Likelihood) and one.evidence is not None])


def same_verdicts(left: list[Verdict], right: list[Verdict]) -> None:
    for one, other in zip(left, right, strict=True):
        assert (one.p_value, one.score, one.is_anomaly) == (other.p_value, other.score, other.is_anomaly)
        assert one.statistic == pytest.approx(other.statistic, rel=STATISTICS)
        assert [reason.text for reason in one.reasons] == [reason.text for reason in other.reasons]


@pytest.mark.parametrize("gradients", [False, True])
def test_alone_in_a_batch_and_in_any_order(scorer: Scorer, images: NDArray[np.uint8], gradients: bool) -> None:
    together = judged(scorer, images, gradients=gradients)
    assert len({one.p_value for one in together}) > 3
    order = np.random.default_rng(1).permutation(len(images))
    same_verdicts(judged(scorer, images[order], gradients=gradients), [together[i] for i in order])
    for i in (0, 5, 23):
        same_verdicts(judged(scorer, images[i : i + 1], gradients=gradients), [together[i]])
    company = np.concatenate([np.zeros_like(images[:2]), np.full_like(images[:1], 255), images[7:8]])
    same_verdicts(judged(scorer, company, gradients=gradients)[3:], [together[7]])
    same_verdicts(judged(scorer, np.asfortranarray(images), gradients=gradients), together)


@pytest.mark.parametrize("gradients", [False, True])
def test_statistics_do_not_know_their_company(scorer: Scorer, images: NDArray[np.uint8], gradients: bool) -> None:
    together = evidence_of(scorer, images, gradients=gradients)
    assert (together.gradients is not None) == gradients
    for i in (0, 11, 23):
        alone = evidence_of(scorer, images[i : i + 1], gradients=gradients)
        np.testing.assert_allclose(alone.whole[0], together.whole[i], rtol=STATISTICS, atol=STATISTICS)
        np.testing.assert_allclose(alone.cells[0], together.cells[i], rtol=STATISTICS, atol=STATISTICS)
        if alone.gradients is not None and together.gradients is not None:
            np.testing.assert_allclose(alone.gradients[0], together.gradients[i], rtol=STATISTICS, atol=STATISTICS)


@pytest.mark.parametrize("draws", [2, 3, 65])
def test_draws_do_not_change_the_verdict(scorer: Scorer, images: NDArray[np.uint8], draws: int) -> None:
    few = images[:5]
    assert scorer.score(few, draws)[0].log_likelihood != scorer.score(few)[0].log_likelihood
    same_verdicts(judged(scorer, few, draws), judged(scorer, few))
    got, expected = evidence_of(scorer, few, draws), evidence_of(scorer, few)
    np.testing.assert_allclose(got.whole, expected.whole, rtol=STATISTICS, atol=STATISTICS)
    np.testing.assert_allclose(got.cells, expected.cells, rtol=STATISTICS, atol=STATISTICS)


@pytest.mark.parametrize("gradients", [False, True])
def test_reasons_of_real_images(scorer: Scorer, images: NDArray[np.uint8], gradients: bool) -> None:
    # The energies of all channels of a level are one reason.
    of_levels = {name.rpartition("-")[0] if name.startswith("energy-") else name for name in scorer.statistics}
    for one in judged(scorer, images, gradients=gradients):
        shares = [reason.share for reason in one.reasons]
        assert len(shares) <= 3
        assert shares == sorted(shares, reverse=True)
        assert all(0 < share <= 1 for share in shares)
        for reason in one.reasons:
            assert reason.text
            assert "{" not in reason.text
            assert reason.feature in (*of_levels, "region", "gradients")
            if reason.box is not None:
                left, top, right, bottom = reason.box
                assert 0 <= left < right <= 28
                assert 0 <= top < bottom <= 28


def test_p_values_by_hand(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    """From the calibration images themselves, scored again."""
    calibration = load_dataset("mnist-mini", None).calibration
    fold = scorer.calibration.folds[0]
    kinds = fold.statistic.kinds
    reference = merge(fold.statistic.families(evidence_of(scorer, calibration)), weights(kinds))
    np.testing.assert_allclose(np.sort(reference), fold.ordered, rtol=1e-9)
    values = merge(fold.statistic.families(evidence_of(scorer, images)), weights(kinds))
    expected = [(1 + int((reference >= value).sum())) / (len(calibration) + 1) for value in values]
    assert [one.p_value for one in judged(scorer, images)] == expected


def test_gradients_differ_by_the_family_of_gradients_alone(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    fold = scorer.calibration.folds[0]
    assert fold.thorough is not None
    basic, full = evidence_of(scorer, images), evidence_of(scorer, images, gradients=True)
    assert full.gradients is not None
    assert np.array_equal(basic.whole, full.whole)
    assert np.array_equal(basic.cells, full.cells)
    families = fold.families(full)
    assert families.shape == (len(images), 3)
    assert np.array_equal(families[:, :2], fold.families(basic))
    np.testing.assert_allclose(
        families[:, 2], fold.thorough.gradients.surprise(full.gradients, basic.whole[:, 0]), rtol=1e-9
    )
    np.testing.assert_allclose(
        [one.statistic for one in judged(scorer, images, gradients=True)], merge(families, weights(fold.kinds(full)))
    )
    # Likelihoods are the same: a backward pass adds to evidence, not to scores.
    assert scorer.score_each(images, gradients=True) == scorer.score_each(images)
    looks = GradientPasses(GradientProbe(scorer.flows), scorer.log_det_digest)
    assert scorer.calibration.fisher is not None
    expected = looks.features(images, looks.split(scorer.calibration.fisher))
    np.testing.assert_allclose(full.gradients, expected, rtol=1e-9)


def test_no_gradients_where_the_calibration_has_no_gradients(artifact: Path, images: NDArray[np.uint8]) -> None:
    whole = load_artifact(artifact)
    plain = replace(whole.calibration, folds=tuple(replace(fold, thorough=None) for fold in whole.calibration.folds))
    scorer = Scorer.of(replace(whole, calibration=plain), options=EngineOptions("torch"))
    with pytest.raises(GradientEvidenceUnavailable):
        scorer.score_each(images[:2], gradients=True)
    assert len(judged(scorer, images[:2])) == 2
    assert scorer.score_each(images[:0]) == []


def test_verdicts_need_the_evidence_of_a_scorer(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    bare = replace(scorer.score(images[:1])[0], evidence=None)
    with pytest.raises(ValueError, match="without evidence"):
        scorer.anomalies([bare])
    assert scorer.anomalies([]) == []
    assert judged(scorer, images[:0], gradients=True) == []


def test_calibration_images_tie_with_themselves_in_any_company(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    scored = scorer.score(digits.calibration)
    together = [one.p_value for one in scorer.anomalies(scored)]
    assert [scorer.anomaly(one).p_value for one in scored] == together
    sevens = [one.p_value for start in range(0, len(scored), 7) for one in scorer.anomalies(scored[start : start + 7])]
    assert sevens == together
    # Each has itself and all stranger ones at least as strange: the p-values are all ranks from 2 on.
    count = len(scored) + 1
    assert sorted(together) == pytest.approx([rank / count for rank in range(2, count + 1)])


def test_cross_conformal_calibrations_offer_no_gradients(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    images = digits.calibration[:40]
    reference = ReferenceImages("few", "", images, images[:0], np.arange(40, dtype=np.int8) % 5)
    calibration, summary = scorer.calibrate(reference, lambda *_: None)
    assert summary.folds == 5
    assert not calibration.has_gradients
    with pytest.raises(GradientEvidenceUnavailable):
        calibration.check_alpha(None, gradients=True)
