"""The distribution of T among calibration images: every image in a bin, and p-values that turn where it says."""

from __future__ import annotations

import numpy as np
import pytest

from models.anomaly.conformal import p_values
from models.anomaly.distribution import ALPHAS, distribution, threshold

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
