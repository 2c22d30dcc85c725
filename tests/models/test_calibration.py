"""Conformal p-values: ranks by hand, and the promise on exchangeable data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import betabinom

from models.problems import AlphaUnattainable
from models.scoring.calibration import Calibration
from models.scoring.scorer import Scorer

TEN = Calibration(np.arange(100.0), np.array([3.0, 1, 2, 9, 5, 5, 7, 8, 4, 6]))


@pytest.mark.parametrize(
    ("log_likelihood", "p"),
    [
        (0.0, 2 / 11),  # below all ten: (1 + 0) / 11, twice
        (1.0, 4 / 11),  # equal to the lowest: it counts
        (1.5, 4 / 11),
        (2.0, 6 / 11),
        (3.9, 8 / 11),
        (5.0, 1.0),  # six at most, six at least: 2 * 7 / 11 is cut at 1
        (7.0, 8 / 11),
        (8.5, 4 / 11),
        (9.0, 4 / 11),
        (9.1, 2 / 11),
        (-math.inf, 2 / 11),
        (math.inf, 2 / 11),
    ],
)
def test_ranks_by_hand(log_likelihood: float, p: float) -> None:
    assert TEN.p_value(log_likelihood) == pytest.approx(p, abs=1e-15)


def test_p_values_against_counting() -> None:
    generator = np.random.default_rng(1)
    reference = np.round(generator.normal(size=201), 1)  # with many ties
    calibration = Calibration(reference, reference)
    for value in np.round(generator.normal(size=200), 1):
        upper = (1 + int((reference <= value).sum())) / 202
        lower = (1 + int((reference >= value).sum())) / 202
        assert calibration.p_value(float(value)) == pytest.approx(min(1.0, 2 * min(upper, lower)), abs=1e-15)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("size", [199, 5000])
def test_false_alarms_on_exchangeable_data(alpha: float, size: int) -> None:
    """Given one calibration set the number of false alarms is Beta-binomial; judged by its 99.99 % interval."""
    generator = np.random.default_rng((size, int(1000 * alpha)))
    tests = 5_000
    calibration = Calibration(generator.gumbel(size=50), generator.gumbel(size=size))
    flagged = sum(calibration.judge(float(value), alpha).is_anomaly for value in generator.gumbel(size=tests))
    # Flagged are the ranks that leave k of size + 1 gaps on either side.
    gaps = 2 * math.floor(alpha * (size + 1) / 2 + 1e-9)
    assert 5e-5 < betabinom.cdf(flagged, tests, gaps, size + 1 - gaps) < 1 - 5e-5


def test_mean_false_alarm_rate_over_calibration_sets_is_at_most_alpha() -> None:
    generator = np.random.default_rng(4)
    alpha, rounds = 0.1, 4000
    flagged = 0
    for _ in range(rounds):
        values = generator.normal(size=60)
        flagged += Calibration(values[:5], values[:59]).judge(float(values[59]), alpha).is_anomaly
    assert abs(flagged / rounds - alpha) < 4 * math.sqrt(alpha * (1 - alpha) / rounds)


def test_alpha_that_can_never_flag_is_refused() -> None:
    assert TEN.smallest_p == 2 / 11
    with pytest.raises(AlphaUnattainable, match=r"alpha = 0\.05 asked, the smallest attainable is 0\.1818") as caught:
        TEN.judge(5.0, 0.05)
    assert caught.value.smallest == 2 / 11
    assert caught.value.status == 422
    assert caught.value.slug == "alpha-unattainable"
    for alpha in (0.0, -1.0):
        with pytest.raises(AlphaUnattainable):
            TEN.judge(5.0, alpha)


def test_the_smallest_alpha_flags_the_strangest() -> None:
    for value in (-100.0, 100.0):
        verdict = TEN.judge(value, TEN.smallest_p)
        assert verdict.is_anomaly
        assert verdict.p_value == verdict.smallest_p == verdict.alpha == 2 / 11


def test_without_alpha_the_default_is_used_and_said() -> None:
    assert TEN.default_alpha == 2 / 11
    verdict = TEN.judge(100.0)
    assert verdict.alpha == 2 / 11
    assert verdict.is_anomaly
    many = Calibration(np.arange(9.0), np.arange(1000.0))
    assert many.default_alpha == 0.01
    assert many.judge(0.0).alpha == 0.01


def test_a_verdict_says_how_strange_and_in_which_direction() -> None:
    calibration = Calibration(np.array([-1.0, 0.0, 1.0, 2.0, 3.0]), np.arange(999.0))
    verdict = calibration.judge(-500.0, 0.05)
    assert verdict.score == pytest.approx(-math.log10(2 / 1000))
    assert verdict.reasons[0].feature == "log_likelihood"
    assert verdict.reasons[0].z == pytest.approx((-500 - 1) / 1.4826)
    assert verdict.statistic == pytest.approx(501 / 1.4826)
    assert calibration.judge(2000.0, 0.05).reasons[0].z > 0


def test_identical_statistics_do_not_divide_by_zero() -> None:
    assert math.isfinite(Calibration(np.full(9, 5.0), np.arange(9.0)).judge(6.0).statistic)


def test_p_never_leaves_its_range() -> None:
    for size in (1, 2, 3, 10):
        calibration = Calibration(np.arange(3.0), np.arange(float(size)))
        for value in (-1.0, 0.0, size / 2, 1e9):
            assert calibration.smallest_p <= calibration.p_value(value) <= 1


def test_a_loaded_model_is_calibrated(scorer: Scorer) -> None:
    assert scorer.smallest_p == pytest.approx(2 / (len(scorer.calibration.calibration) + 1))
    assert scorer.manifest.calibration.smallest_p == scorer.smallest_p
    verdict = scorer.anomaly(scorer.score(scorer.pinned[:1])[0])
    assert verdict.alpha == scorer.default_alpha
