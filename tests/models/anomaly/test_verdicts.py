"""Verdicts of a loaded model: the same for the same image wherever."""

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.datasets import load_dataset
from snf_models.errors import ImageError
from snf_models.scorer import Scorer
from snf_runtime.anomaly.statistics import merge, weights
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.likelihood import Likelihood
from tests.models.helpers import half_with_noise

ELSEWHERE = 1e-4
"""Nats between the same image in one company and in another."""
STATISTICS = 1e-9
"""Relative, between the same statistic in one company and in another."""


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Digits, half of them with something that is not of a digit."""
    return half_with_noise(24)


def judged(scorer: Scorer, images: NDArray[np.uint8], draws: int = 1) -> list[Verdict]:
    found = scorer.score_each(images, draws)
    return scorer.verdicts([one for one in found if not isinstance(one, ImageError)])


def evidence_of(scorer: Scorer, images: NDArray[np.uint8], draws: int = 1) -> Evidence:
    found = scorer.score_each(images, draws)
    return Evidence.join([one.evidence for one in found if isinstance(one, Likelihood)])


def same_verdicts(left: list[Verdict], right: list[Verdict]) -> None:
    for one, other in zip(left, right, strict=True):
        assert (one.p_value, one.score, one.is_anomaly) == (other.p_value, other.score, other.is_anomaly)
        assert one.statistic == pytest.approx(other.statistic, rel=STATISTICS)
        assert [reason.text for reason in one.reasons] == [reason.text for reason in other.reasons]


def test_alone_in_a_batch_of_any_size_and_in_any_order(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    together, scores = judged(scorer, images), scorer.score(images)
    assert len({one.p_value for one in together}) > 3
    assert scorer.score(images) == scores, "twice the same to the bit"
    tile = scorer.density.micro_batch
    order = np.random.default_rng(1).permutation(len(images)).tolist()
    extremes = np.concatenate([np.zeros_like(images[:2]), np.full_like(images[:1], 255)])
    batches = [order, [0], [5], [23], list(range(23)), list(range(max(1, tile - 1))), list(range(min(24, tile + 1)))]
    for numbers, before in [*((numbers, images[:0]) for numbers in batches), ([7], extremes)]:
        batch = np.asfortranarray(np.concatenate([before, images[numbers]]))
        same_verdicts(judged(scorer, batch)[len(before) :], [together[i] for i in numbers])
        for one, number in zip(scorer.score(batch)[len(before) :], numbers, strict=True):
            assert one.log_likelihood == pytest.approx(scores[number].log_likelihood, abs=ELSEWHERE)


@pytest.mark.parametrize("draws", [2, 3, 65])
def test_draws_do_not_change_the_verdict(scorer: Scorer, images: NDArray[np.uint8], draws: int) -> None:
    few = images[:5]
    assert scorer.score(few, draws)[0].log_likelihood != scorer.score(few)[0].log_likelihood
    same_verdicts(judged(scorer, few, draws), judged(scorer, few))
    got, expected = evidence_of(scorer, few, draws), evidence_of(scorer, few)
    np.testing.assert_allclose(got.whole, expected.whole, rtol=STATISTICS, atol=STATISTICS)
    np.testing.assert_allclose(got.cells, expected.cells, rtol=STATISTICS, atol=STATISTICS)


def test_reasons_of_real_images(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    # The energies of all channels of a level are one reason.
    of_levels = {name.rpartition("-")[0] if name.startswith("energy-") else name for name in scorer.density.statistics}
    for one in judged(scorer, images):
        shares = [reason.share for reason in one.reasons]
        assert len(shares) <= 3
        assert shares == sorted(shares, reverse=True)
        assert all(0 < share <= 1 for share in shares)
        for reason in one.reasons:
            assert reason.text
            assert "{" not in reason.text
            assert reason.feature in (*of_levels, "region")
            if reason.box is not None:
                left, top, right, bottom = reason.box
                assert 0 <= left < right <= 28
                assert 0 <= top < bottom <= 28


def test_p_values_by_hand(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    """From the calibration images themselves, scored again."""
    calibration = load_dataset("mnist-mini", None).calibration
    fold = scorer.calibration.folds[0]
    kinds = fold.statistic.kinds
    reference = merge(fold.statistic.group_surprises(evidence_of(scorer, calibration)), weights(kinds))
    np.testing.assert_allclose(np.sort(reference), fold.ordered, rtol=1e-9)
    values = merge(fold.statistic.group_surprises(evidence_of(scorer, images)), weights(kinds))
    expected = [(1 + int((reference >= value).sum())) / (len(calibration) + 1) for value in values]
    assert [one.p_value for one in judged(scorer, images)] == expected


def test_no_image_has_no_verdict(scorer: Scorer, images: NDArray[np.uint8]) -> None:
    assert scorer.verdicts([]) == []
    assert judged(scorer, images[:0]) == []


def test_calibration_images_tie_with_themselves_in_any_company(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    scored = scorer.score(digits.calibration)
    together = [one.p_value for one in scorer.verdicts(scored)]
    assert [scorer.verdicts([one])[0].p_value for one in scored] == together
    sevens = [one.p_value for start in range(0, len(scored), 7) for one in scorer.verdicts(scored[start : start + 7])]
    assert sevens == together
    # Each has itself and all stranger ones at least as strange: the p-values are all ranks from 2 on.
    count = len(scored) + 1
    assert sorted(together) == pytest.approx([rank / count for rank in range(2, count + 1)])
