"""Surprise -ln P(T >= t) against empirical and exact survival functions."""

import math

import numpy as np
import pytest
from scipy.stats import expon

from snf_runtime.anomaly.statistics import MIN_TAIL_VALUES, TAIL, Tail


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 10, 50, 255, 300, 5000])
def test_monotone_and_finite(count: int) -> None:
    reference = np.random.default_rng(count).gamma(2, 3, count)
    tail = Tail.fit(reference)
    t = np.sort(np.concatenate([reference, np.linspace(-5, 200, 999)]))
    found = tail.surprise(t)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (np.diff(found) >= 0).all()
    assert (np.diff(tail.values) >= 0).all()
    assert (np.diff(tail.surprises) >= 0).all()


@pytest.mark.parametrize("count", [100, 1000, 20_000])
def test_inside_it_is_the_empirical_survival(count: int) -> None:
    reference = np.random.default_rng(3).normal(5, 2, count)
    found = Tail.fit(reference).surprise(reference)
    survival = np.array([np.mean(reference >= value) for value in reference])
    inside = survival > TAIL + 1.5 / count
    assert inside.sum() > 0.9 * count
    # Half a rank, and the interpolation between the stored points.
    np.testing.assert_allclose(np.exp(-found[inside]), survival[inside], atol=1.5 / count + 1 / 500)


@pytest.mark.parametrize("scale", [0.02, 1.0, 700.0])
def test_exponential_data_have_an_exponential_tail(scale: float) -> None:
    reference = np.random.default_rng(5).exponential(scale, 40_000)
    tail = Tail.fit(reference)
    assert float(tail.slope) * scale == pytest.approx(1, rel=4.5 / math.sqrt(TAIL * 40_000))
    t = scale * np.array([4.0, 10.0, 30.0])
    np.testing.assert_allclose(tail.surprise(t), -expon(scale=scale).logsf(t), rtol=0.12)
    # Beyond the last point it is a straight line.
    far = tail.surprise(tail.values[-1] + scale * np.arange(5.0))
    np.testing.assert_allclose(np.diff(far), float(tail.slope) * scale, rtol=1e-9)


def test_slope_is_one_over_the_mean_excess() -> None:
    reference = np.random.default_rng(6).gamma(3, 1, 1000)
    ordered = sorted(reference.tolist())
    threshold, excesses = ordered[949], ordered[950:]
    expected = 50 / math.fsum(value - threshold for value in excesses)
    assert float(Tail.fit(reference).slope) == pytest.approx(expected, rel=1e-12)
    few = np.arange(8.0)
    assert float(Tail.fit(few).slope) == pytest.approx(1 / np.mean([1, 2, 3, 4, 5]))
    assert MIN_TAIL_VALUES == 5


def test_ties_count_as_at_least() -> None:
    """Four in five reference values are 1: to be 1 is no surprise, P(T >= 1) = 1; to be 2 is -ln 0.2."""
    reference = np.repeat([1.0, 2.0], [800, 200])
    found = Tail.fit(reference).surprise(np.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(np.exp(-found), [1, 1, 0.2], atol=5e-3)


@pytest.mark.parametrize("count", [1, 2, 30, 1000])
def test_constant_data(count: int) -> None:
    tail = Tail.fit(np.full(count, 3.0))
    below, same, above, far = tail.surprise(np.array([2.0, 3.0, 3.1, 4.0]))
    # Half a rank is all that a value is surprised of which every reference value has.
    assert below == same <= -math.log1p(-0.5 / (count + 1)) + 1e-12
    assert same < above < far < math.inf
