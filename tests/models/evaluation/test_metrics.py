"""Metrics against brute force, and intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.evaluation.curves import roc_points, shared_edges, shares
from models.evaluation.metrics import Resamples, bootstrap, interval, separation

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


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_resample_is_what_repeating_images_gives(seed: int, tied: bool) -> None:
    normal, strange = some(seed, tied)
    drawn = Resamples.draw(len(normal), len(strange), 20, seed)
    assert (drawn.normal.sum(0) == len(normal)).all()
    found = bootstrap(normal, strange, drawn)
    for row, n, s in zip(found, drawn.normal.T, drawn.strange.T, strict=True):
        assert tuple(row) == pytest.approx(brute_force(np.repeat(normal, n), np.repeat(strange, s)))


def test_every_image_once_gives_the_metrics_themselves() -> None:
    normal, strange = some(0, tied=True)
    once = Resamples(np.ones((len(normal), 1), np.uint8), np.ones((len(strange), 1), np.uint8))
    found = separation(normal, strange)
    assert tuple(bootstrap(normal, strange, once)[0]) == pytest.approx((found.auroc, found.aupr, found.fpr95))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """AUROC of N(0, 1) against N(1, 1) is Φ(1 / √2) = 0.7602."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        normal, strange = rng.normal(0, 1, 80), rng.normal(1, 1, 80)
        low, high = interval(bootstrap(normal, strange, Resamples.draw(80, 80, 200, seed))[:, 0])
        covered += low <= 0.76025 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_intervals_in_any_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, strange = some(1, tied=False)
    drawn = Resamples.draw(len(normal), len(strange), 50)
    whole = bootstrap(normal, strange, drawn)
    monkeypatch.setattr("models.evaluation.metrics.MAX_COUNTS", 200)
    assert (bootstrap(normal, strange, Resamples.draw(len(normal), len(strange), 50)) == whole).all()


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
