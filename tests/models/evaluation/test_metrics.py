"""Metrics against brute force, and intervals against what they promise."""

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.evaluation.metrics import (
    Separation,
    auroc_gain,
    intervals,
    roc_points,
    separation,
    shared_edges,
    shares,
)

Array = NDArray[np.float64]


def brute_force(normal: Array, strange: Array) -> tuple[float, float, float]:
    """AUROC by all pairs, average precision and FPR by all thresholds."""
    pairs = (strange[:, None] > normal).mean() + 0.5 * (strange[:, None] == normal).mean()
    precision_sum, recall, fpr = 0.0, 0.0, 1.0
    for threshold in sorted({*normal, *strange}, reverse=True):
        true, false = int((strange >= threshold).sum()), int((normal >= threshold).sum())
        precision_sum += (true / len(strange) - recall) * true / (true + false)
        recall = true / len(strange)
        if recall >= 0.95:
            fpr = min(fpr, false / len(normal))
    return float(pairs), precision_sum, fpr


def some(seed: int, tied: bool) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    normal, strange = rng.normal(0, 1, 37), rng.normal(0.8, 1.5, 23)
    return (normal.round(), strange.round()) if tied else (normal, strange)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_brute_force(seed: int, tied: bool) -> None:
    normal, strange = some(seed, tied)
    found = separation(normal, strange)
    assert (found.auroc, found.aupr, found.fpr95) == pytest.approx(brute_force(normal, strange))


COVERED = {
    # True AUROC and FPR of N(0, 1) against N(shift, 1).
    (20, 1.81239): (0.9, 0.43347),
    (100, 2.32635): (0.95, 0.24778),
    (50, 3.28996): (0.99, 0.04997),
}


@pytest.mark.parametrize("case", COVERED)
def test_intervals_contain_the_truth_as_often_as_they_say(case: tuple[int, float]) -> None:
    size, shift = case
    covered = np.zeros(2)
    for seed in range(400):
        rng = np.random.default_rng((size, seed))
        found = intervals(rng.normal(0, 1, size), rng.normal(shift, 1, size))
        covered += [low <= true <= high for (low, high), true in zip(found[::2], COVERED[case], strict=True)]
    assert (covered / 400 >= 0.92).all()


def test_intervals_of_perfect_scores_are_no_points() -> None:
    normal, strange = np.arange(50.0), np.arange(50.0) + 100
    assert separation(normal, strange) == Separation(1.0, 1.0, 0.0)
    of_auroc, of_aupr, of_fpr = intervals(normal, strange)
    # 50 of 50 by Clopper and Pearson, and three quarters as many images.
    assert of_auroc == (pytest.approx(0.025 ** (1 / 75)), 1.0)
    assert of_aupr[0] < 0.93
    assert of_fpr == (0.0, 1.0)
    gain, (low, high) = auroc_gain((normal, normal), (strange, strange))
    assert (gain, low, high) == (0.0, pytest.approx(-(1 - of_auroc[0])), pytest.approx(1 - of_auroc[0]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_intervals_contain_the_metrics_and_do_not_depend_on_the_order(seed: int, tied: bool) -> None:
    normal, strange = some(seed, tied)
    point, found = separation(normal, strange), intervals(normal, strange)
    for value, (low, high) in zip((point.auroc, point.aupr, point.fpr95), found, strict=True):
        assert 0 <= low <= value <= high <= 1
    rng = np.random.default_rng(seed)
    assert intervals(rng.permutation(normal), rng.permutation(strange)) == found
    for single in (intervals(normal[:1], strange), intervals(normal, strange[:1])):
        assert np.isfinite(single).all()


def test_a_gain_is_surer_where_scores_agree() -> None:
    rng = np.random.default_rng(0)
    normal, strange = rng.normal(0, 1, 200), rng.normal(1, 1, 100)
    noise = [rng.normal(0, 1, 200), rng.normal(0, 1, 100)]
    widths = []
    for share in (0.1, 1.0, 10.0):
        other = normal + share * noise[0], strange + share * noise[1]
        gain, (low, high) = auroc_gain((normal, other[0]), (strange, other[1]))
        assert gain == pytest.approx(separation(normal, strange).auroc - separation(*other).auroc)
        assert low < gain < high
        widths.append(high - low)
    assert widths == sorted(widths)
    assert widths[0] < 0.3 * widths[2]


@pytest.mark.parametrize(
    ("normal", "reason"),
    [
        ([0.0, np.nan], "expected finite scores, got NaN or infinity"),
        ([0.0, np.inf], "expected finite scores, got NaN or infinity"),
        ([], "expected scores of normal and of anomalous images, got 0 and 1"),
    ],
)
def test_scores_that_have_no_order_are_refused(normal: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        separation(np.array(normal), np.array([1.0]))


def test_a_thinned_curve_stays_on_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    normal, strange = rng.normal(0, 1, 3000), rng.normal(1, 1, 3000)
    points = np.array(roc_points(normal, strange))
    assert len(points) <= 200
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert (np.diff(points, axis=0) >= 0).all()
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(separation(normal, strange).auroc, abs=2e-3)
    assert roc_points(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == [(0, 0), (0, 0.5), (0, 1), (1, 1)]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_every_image_is_in_a_bar(logarithmic: bool) -> None:
    sets = [np.array([0.0, 1.0, 2.0]), np.append(np.linspace(0, 5, 1000), 1e9)]
    edges = shared_edges(sets, logarithmic=logarithmic)
    assert edges[-1] < 6
    assert (np.diff(edges) > 0).all()
    for values in sets:
        assert sum(shares(values, edges)) == pytest.approx(1, abs=1e-4)
    assert len(shared_edges([np.ones(5)])) == 61
