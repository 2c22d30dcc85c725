"""Conformal p-values by hand, by simulation, and the arithmetic of ranks by exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binom

from snf_models.anomaly.exchangeability import CONFIDENCE, false_alarm_interval, safe_threshold
from snf_runtime.anomaly.calibration import (
    ALPHAS,
    USUAL_ALPHAS,
    distribution,
    flagged_ranks,
    p_values,
    smallest_p,
    threshold,
)


def test_p_values_by_hand() -> None:
    reference = np.array([1.0, 2.0, 2.0, 3.0])
    got = p_values([reference], [np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, np.inf])])
    # Ties count as at least as strange.
    assert got.tolist() == [1.0, 1.0, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5, 1 / 5]
    assert p_values([np.zeros(0)], [np.array([1.0])]).tolist() == [1.0]
    assert smallest_p(4) == 1 / 5


def test_definition_on_random_data_with_ties() -> None:
    generator = np.random.default_rng(0)
    folds = [np.sort(generator.integers(0, 9, size)).astype(float) for size in (7, 1, 12)]
    statistics = [generator.integers(-1, 10, 50).astype(float) for _ in folds]
    expected = [
        Fraction(1 + sum(t >= own[i] for fold, own in zip(folds, statistics, strict=True) for t in fold), 21)
        for i in range(50)
    ]
    assert p_values(folds, statistics).tolist() == [float(p) for p in expected]
    with pytest.raises(ValueError, match="zip"):
        p_values(folds, statistics[:2])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "discrete"), [(19, False), (99, False), (500, False), (99, True)])
def test_p_values_of_exchangeable_images(seed: int, n: int, discrete: bool) -> None:
    """Given one calibration set, the count of p <= alpha is Beta-binomial; with ties it is at most that."""
    generator = np.random.default_rng((seed, n))
    tests = 2000
    values = generator.gamma(2, 3, n + tests)
    values = np.floor(values) if discrete else values
    p = p_values([np.sort(values[:n])], [values[n:]])
    for alpha in (0.01, 0.05, 0.1, 0.5):
        k = math.floor(alpha * (n + 1) + 1e-9)
        low, high = betabinom(tests, k, n + 1 - k).interval(0.9999) if k else (0, 0)
        count = int((p <= alpha).sum())
        assert count <= high
        assert discrete or count >= low


def test_uniform_over_calibration_sets() -> None:
    """Every rank equally often when calibration set and image are drawn anew."""
    generator = np.random.default_rng(5)
    n, rounds = 9, 20_000
    values = generator.normal(size=(rounds, n + 1))
    p = np.array([p_values([np.sort(row[:n])], [row[n:]])[0] for row in values])
    counts = np.bincount(np.rint(p * (n + 1)).astype(int), minlength=n + 2)[1:]
    assert counts.sum() == rounds
    low, high = binom(rounds, 1 / (n + 1)).interval(0.9999)
    assert low <= counts.min()
    assert counts.max() <= high


@pytest.mark.parametrize("n", [1, 9, 10, 19, 46, 49, 99, 100, 199, 999, 1000, 2000, 4999, 5000, 9999])
def test_flagged_ranks_are_exact(n: int) -> None:
    texts = ["0.001", "0.0001", "0.002", "0.005", "0.01", "0.02", "0.03", "0.05", "0.07", "0.1", "0.29", "0.57", "0.9"]
    for text in texts:
        expected = math.floor(Fraction(text) * (n + 1))
        assert flagged_ranks(n, float(text)) == expected, text
        attainable = np.arange(1, n + 2) / (n + 1)
        assert int((attainable <= float(text)).sum()) == expected, "the same as comparing p-values"


@pytest.mark.parametrize("n", [1, 7, 99, 5000])
def test_every_attainable_alpha_flags_its_own_rank(n: int) -> None:
    ranks = range(1, n + 2) if n < 1000 else (1, 2, 50, 333, 4999, 5000, 5001)
    assert [flagged_ranks(n, k / (n + 1)) for k in ranks] == list(ranks)
    assert flagged_ranks(n, np.nextafter(smallest_p(n), 0)) == 0


@pytest.mark.parametrize(("n", "tests", "alpha"), [(5000, 10_000, 0.01), (99, 300, 0.05), (50, 100, 0.02)])
def test_interval_holds_what_is_simulated(n: int, tests: int, alpha: float) -> None:
    low, high = false_alarm_interval(n, tests, alpha)
    generator = np.random.default_rng(n)
    rounds = 2000
    k = math.floor(Fraction(str(alpha)) * (n + 1))
    # The k-th largest of n uniform calibration values is the threshold; the share above it is what is flagged.
    rates = 1 - np.partition(generator.random((rounds, n)), n - k, axis=1)[:, n - k]
    shares = generator.binomial(tests, rates) / tests
    inside = int(((low <= shares) & (shares <= high)).sum())
    # An interval of a discrete distribution holds 99 % or a little more.
    assert binom.ppf(1e-4, rounds, 0.99) <= inside
    assert np.mean(shares < low) <= 0.011
    assert np.mean(shares > high) <= 0.011


def test_interval_at_the_ends() -> None:
    assert false_alarm_interval(50, 100, 0.01) == (0.0, 0.0)
    assert false_alarm_interval(50, 100, 1.0) == (1.0, 1.0)


@pytest.mark.parametrize("n", [50, 100, 300, 1000, 5000])
def test_safe_threshold_is_the_last_rank_that_keeps_the_promise(n: int) -> None:
    ranks = np.arange(1, n + 1)
    for alpha in USUAL_ALPHAS:
        safe = ranks[beta.sf(alpha, ranks, n + 1 - ranks) <= 1 - CONFIDENCE]
        got = safe_threshold(n, alpha)
        assert got == (safe.max() / (n + 1) if len(safe) else None)
        assert got is None or got <= alpha


def test_safe_threshold_by_simulation() -> None:
    n, alpha, rounds = 300, 0.05, 4000
    threshold = safe_threshold(n, alpha)
    k = round(threshold * (n + 1))
    uniform = np.sort(np.random.default_rng(1).random((rounds, n)), axis=1)
    rates, next_rates = 1 - uniform[:, n - k], 1 - uniform[:, n - k - 1]
    assert (rates > alpha).sum() <= binom.isf(1e-4, rounds, 0.05)
    # One rank more would break the promise, and alpha itself would about every other time.
    assert beta(k + 1, n - k).sf(alpha) > 0.05
    assert (next_rates > alpha).sum() > (rates > alpha).sum()
    assert safe_threshold(n, alpha, confidence=0.5) > threshold


LARGEST = 1e6


@pytest.mark.parametrize("images", [20, 99, 1000, 5000])
@pytest.mark.parametrize("bins", [10, 200])
def test_a_heavy_tail_has_a_bin_of_its_own(images: int, bins: int) -> None:
    values = np.sort(np.random.default_rng(0).lognormal(0, 2, images))
    found = distribution([values[::2], values[1::2]], bins, LARGEST)
    assert (len(found.edges), len(found.counts), found.counts.sum()) == (bins + 1, bins, images)
    widths = np.diff(found.edges)
    assert widths[:-1] == pytest.approx(np.full(bins - 1, widths[0]))
    assert found.edges[[0, -1]].tolist() == values[[0, -1]].tolist()
    assert 1 <= found.counts[-1] <= 1 + np.ceil(images / 1000)
    middle = np.sum((values >= found.edges[3]) & (values < found.edges[4]))
    assert found.counts[3] == middle


@pytest.mark.parametrize(
    ("values", "first", "last"), [([2.0] * 30, 1.5, 2.5), ([1.0, *[2.0] * 29], 1.0, 2.0), ([3.0], 2.5, 3.5)]
)
def test_ties_leave_bins_of_some_width(values: list[float], first: float, last: float) -> None:
    found = distribution([np.array(values)], 10, LARGEST)
    assert np.diff(found.edges) == pytest.approx(np.full(10, (last - first) / 10))
    assert (found.edges[0], found.edges[-1], found.counts.sum()) == (first, last, len(values))


def test_what_overflowed_is_told_as_large_as_scores_are() -> None:
    found = distribution([np.array([0.0, 1.0, 2.0, np.inf])], 10, LARGEST)
    assert found.edges[-1] == LARGEST
    assert found.counts.sum() == 4


@pytest.mark.parametrize("images", [9, 20, 400, 5000, 9999])
def test_p_values_turn_at_the_thresholds(images: int) -> None:
    values = np.sort(np.random.default_rng(images).exponential(size=images))
    found = distribution([values], 10, LARGEST).quantiles
    assert list(found) == [alpha for alpha in ALPHAS if alpha >= 1 / (images + 1)]
    for alpha, statistic in found.items():
        below, at = p_values([values], [np.array([statistic - 2e-6, statistic])])
        assert at <= alpha < below


def test_a_threshold_by_hand() -> None:
    # Two of ten ranks may be flagged: above the second largest one image is at least as strange, p = 2 / 10.
    ordered = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    assert threshold(ordered, 0.2) == 8.000001
    assert threshold(np.full(9, 4.0), 0.2) == 4.000001
