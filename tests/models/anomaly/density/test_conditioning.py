"""Standardising given complexity: known curves are recovered, and nothing wild happens with few or odd images."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import curve_fit

from snf_models.datasets import load_dataset
from snf_models.scorer import Scorer
from snf_runtime.anomaly.statistics import KNOTS, MIN_IMAGES_CURVE, MIN_IMAGES_LINE, Conditioning
from snf_runtime.scoring.evidence import COMPLEXITY

Array = NDArray[np.float64]


def synthetic(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Statistics of known mean curve and spread, and complexities."""
    generator = np.random.default_rng(seed)
    c = generator.uniform(1, 4, count)
    noise = generator.standard_normal((count, 2))
    first = 3 + 2 * c + 0.5 * (c - 2.5) ** 2 + np.exp(0.4 * c - 1) * noise[:, 0]
    second = -7 - 30 * c + 5 * noise[:, 1]
    return np.stack([first, second], 1), c


def test_known_mean_and_spread_are_recovered() -> None:
    statistics, c = synthetic(8000)
    fitted = Conditioning.fit(statistics, c)
    at = np.linspace(1.1, 3.9, 15)
    means = np.stack([3 + 2 * at + 0.5 * (at - 2.5) ** 2, -7 - 30 * at], 1)
    spreads = np.stack([np.exp(0.4 * at - 1), np.full(15, 5.0)], 1)
    assert np.abs(fitted(means, at)).max() < 0.12
    # One known deviation above the mean is one standard deviation, anywhere.
    np.testing.assert_allclose(fitted(means + spreads, at) - fitted(means, at), 1, atol=0.08)


def test_real_statistics_no_longer_follow_complexity(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    scored = scorer.score(digits.train)
    whole = np.concatenate([one.evidence.whole for one in scored])
    assert scorer.density.statistics[0] == COMPLEXITY
    statistics, c = whole[:, 1:], whole[:, 0]
    z = Conditioning.fit(statistics, c)(statistics, c)
    before = [abs(np.corrcoef(column, c)[0, 1]) for column in statistics.T]
    after = [abs(np.corrcoef(column, c)[0, 1]) for column in z.T]
    assert max(before) > 0.5
    assert max(after) < 0.1
    np.testing.assert_allclose(np.sqrt(np.square(z).mean(0)), 1, atol=0.1)


def test_the_mean_is_the_least_squares_natural_spline() -> None:
    statistics, c = synthetic(400)
    fitted = Conditioning.fit(statistics, c)
    np.testing.assert_allclose(fitted.knots, np.quantile(c, np.linspace(0, 1, KNOTS)), rtol=1e-12)

    def spline(x: Array, *values: float) -> Array:
        found: Array = CubicSpline(fitted.knots, np.array(values), bc_type="natural")(x)
        return found

    for column in range(2):
        expected = curve_fit(spline, c, statistics[:, column], p0=np.zeros(KNOTS))[0]
        np.testing.assert_allclose(fitted.mean[:, column], expected, rtol=1e-6)


@pytest.mark.parametrize("count", [60, 500])
def test_beyond_the_reference_the_mean_goes_on_straight_and_the_spread_stays(count: int) -> None:
    statistics, c = synthetic(count)
    fitted = Conditioning.fit(statistics, c)
    # An affine function of the statistic at each complexity: two values of it give mean and spread.
    for end, steps in ((c.max(), np.array([0.0, 1.0, 2.0, 5.0])), (c.min(), -np.array([0.0, 1.0, 2.0, 5.0]))):
        at = end + steps
        zero, one = fitted(np.zeros((4, 2)), at), fitted(np.ones((4, 2)), at)
        spread = 1 / (one - zero)
        mean = -zero * spread
        np.testing.assert_allclose(mean - mean[0], np.outer(steps / steps[1], mean[1] - mean[0]), rtol=1e-8, atol=1e-8)
        inside = fitted(np.ones((count, 2)), c) - fitted(np.zeros((count, 2)), c)
        assert (spread <= (1 / inside).max(0) * (1 + 1e-9)).all()
        assert (spread >= (1 / inside).min(0) * (1 - 1e-9)).all()
        np.testing.assert_allclose(spread[2:], spread[[1, 1]], rtol=1e-12)


@pytest.mark.parametrize(
    ("count", "knots"),
    [
        (1, 1),
        (2, 1),
        (MIN_IMAGES_LINE - 1, 1),
        (MIN_IMAGES_LINE, 2),
        (MIN_IMAGES_CURVE - 1, 2),
        (MIN_IMAGES_CURVE, KNOTS),
    ],
)
def test_few_images_bend_less(count: int, knots: int) -> None:
    statistics, c = synthetic(count)
    fitted = Conditioning.fit(statistics, c)
    assert len(fitted.knots) == knots
    z = fitted(statistics, c)
    assert np.isfinite(z).all()
    np.testing.assert_allclose(np.sqrt(np.square(z).mean(0)), 1 if count > 1 else 0, atol=1e-9)
    if knots == 1:
        np.testing.assert_allclose(fitted.mean[0], statistics.mean(0), rtol=1e-9)


@pytest.mark.parametrize("count", [50, 300])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_constant_complexity_is_no_curve(count: int, share: float) -> None:
    statistics, c = synthetic(count)
    c[: int(share * count)] = 2.0
    fitted = Conditioning.fit(statistics, c)
    if share == 1:
        assert len(fitted.knots) == 1
        expected = (statistics - statistics.mean(0)) / statistics.std(0)
        np.testing.assert_allclose(fitted(statistics, c), expected, rtol=1e-9, atol=1e-9)
    far = fitted(statistics[:3], np.array([0.0, 2.0, 9.0]))
    assert np.isfinite(far).all()


def test_a_statistic_that_is_the_same_everywhere_stays_finite() -> None:
    _, c = synthetic(300)
    fitted = Conditioning.fit(np.full((300, 1), 0.1), c)
    assert np.abs(fitted(np.full((300, 1), 0.1), c)).max() < 1e-3
    assert np.isfinite(fitted(np.array([[5.0]]), np.array([2.0]))).all()
