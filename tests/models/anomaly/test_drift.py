"""The drift test: distances by hand, silence on exchangeable images, and a voice where they change."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, kstwobign

from models.anomaly.drift import DriftResult, drift_test, low_share
from snf_runtime.anomaly import conformal

LEVEL = 1e-4


def windows(
    generator: np.random.Generator, n: int, m: int, rounds: int, *, two_sided: bool, shift: float = 0.0
) -> NDArray[np.float64]:
    """P-values ``(rounds, m)``: in each round a new calibration set of n and a window of m normal images."""
    found = np.empty((rounds, m))
    for i in range(rounds):
        calibration = np.sort(generator.normal(size=n))
        below = np.searchsorted(calibration, generator.normal(size=m) - shift)
        found[i] = (
            np.minimum(1.0, 2 * (1 + np.minimum(below, n - below)) / (n + 1)) if two_sided else (1 + below) / (n + 1)
        )
    return found


def alarms(p_values: NDArray[np.float64], n: int, smallest_p: float, level: float) -> int:
    return sum(drift_test(window, n, smallest_p, level).alarm for window in p_values)


def test_distances_by_hand() -> None:
    # Ranks 1 and 4 of 4: F is 1/2 at 1/4, and 1/2 just below 1, where 3/4 are expected.
    found = drift_test([0.25, 1.0], 3, 0.25, LEVEL)
    assert found == DriftResult(2, 0.25, float(kstwobign.sf(0.25 * np.sqrt(6 / 5))), 0.0, 0.625, alarm=False)
    assert drift_test([0.25, 0.25], 3, 0.25, LEVEL).statistic == 0.75
    assert drift_test([1.0] * 5, 3, 0.25, LEVEL).statistic == 0.75
    # Two-sided p-values cannot be 1/4 or 3/4: just below 1 no more than 1/2 is expected.
    assert drift_test([1.0] * 5, 3, 0.5, LEVEL).statistic == 0.5


def test_every_attainable_p_value_once_is_no_distance() -> None:
    for n in (1, 4, 99, 1000):
        assert drift_test((1 + np.arange(n + 1)) / (n + 1), n, 1 / (n + 1), LEVEL).statistic == pytest.approx(
            0, abs=1e-12
        )
    each = conformal.p_values([np.arange(999.0)], [np.arange(1000) - 0.5])
    assert drift_test(each, 999, conformal.smallest_p(999), LEVEL).statistic == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "m", "two_sided"),
    [(20, 50, False), (20, 50, True), (50, 500, True), (500, 500, True), (5000, 200, False)],
)
def test_false_alarms_over_calibration_sets(n: int, m: int, two_sided: bool) -> None:
    rounds, smallest = 3000, (2 if two_sided else 1) / (n + 1)
    p_values = windows(np.random.default_rng((n, m, two_sided)), n, m, rounds, two_sided=two_sided)
    found = [drift_test(window, n, smallest, LEVEL) for window in p_values]
    assert [one.alarm for one in found] == [one.p_value <= LEVEL for one in found]
    for level in (0.05, 0.01, LEVEL):
        assert sum(one.p_value <= level for one in found) <= binom.isf(1e-4, rounds, level)


def test_the_level_is_used_up_where_there_are_images_enough() -> None:
    rounds, level = 3000, 0.05
    p_values = windows(np.random.default_rng(1), 2000, 500, rounds, two_sided=True)
    assert alarms(p_values, 2000, 2 / 2001, level) > binom.ppf(1e-4, rounds, 0.8 * level)


def test_a_comparison_with_exactly_uniform_p_values_would_raise_false_alarms() -> None:
    """What the effective sample size is for: 50 calibration images, 500 recent ones: most windows at 1 %."""
    n, m, rounds = 50, 500, 500
    p_values = windows(np.random.default_rng(2), n, m, rounds, two_sided=False)
    as_if_uniform = [
        kstwobign.sf(drift_test(window, n, 1 / (n + 1), LEVEL).statistic * np.sqrt(m)) <= 0.01 for window in p_values
    ]
    assert np.mean(as_if_uniform) > 0.5
    assert alarms(p_values, n, 1 / (n + 1), 0.01) <= binom.isf(1e-4, rounds, 0.01)


@pytest.mark.parametrize(("shift", "images"), [(0.5, 500), (1.0, 100)])
def test_a_shift_is_found(shift: float, images: int) -> None:
    p_values = windows(np.random.default_rng(3), 2000, images, 300, two_sided=False, shift=shift)
    assert alarms(p_values, 2000, 1 / 2001, LEVEL) >= 297
    found = drift_test(p_values[0], 2000, 1 / 2001, LEVEL)
    assert found.low_share > 0.08
    assert found.mean_p < 0.45


def test_two_sided_p_values_show_a_shift_in_either_direction() -> None:
    for shift in (-1.5, 1.5):
        p_values = windows(np.random.default_rng(4), 2000, 500, 100, two_sided=True, shift=shift)
        assert alarms(p_values, 2000, 2 / 2001, LEVEL) == 100


def test_one_image_again_and_again_is_an_alarm() -> None:
    found = drift_test(np.full(200, 0.5), 5000, 2 / 5001, LEVEL)
    assert found.alarm
    assert found.low_share == 0


def test_low_share_counts_the_limit_in() -> None:
    assert low_share([0.05, 1 / 20, 3 / 60, 0.051]) == 0.75


@pytest.mark.parametrize(
    ("p_values", "n", "match"),
    [
        ([], 10, "got 0 and 10"),
        ([0.5], 0, "got 1 and 0"),
        ([0.0, 0.5], 10, r"got 0\.0 to 0\.5"),
        ([0.5, 1.5], 10, r"got 0\.5 to 1\.5"),
        ([0.5, float("nan")], 10, "nan"),
    ],
)
def test_what_is_no_window_is_refused(p_values: list[float], n: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        drift_test(p_values, n, 1 / (n + 1), LEVEL)
