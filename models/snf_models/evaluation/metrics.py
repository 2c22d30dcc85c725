"""Metrics of how well a score separates two sets of images, with intervals that ``benchmarks.intervals`` simulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from snf_models.anomaly.exchangeability import clopper_pearson

Array: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

TAIL = 0.025
"""Probability that an interval lies above the truth, and that it lies below."""
TPR = 0.95
"""True-positive rate at which the false-positive rate is reported."""
AUROC_PRIOR = 2 / 3
"""Variance of the AUROC over A (1 - A) / images where a share of the anomalies looks like normal images."""


@dataclass(frozen=True)
class Separation:
    """AUROC, average precision, and the false-positive rate at 95 % true positives."""

    auroc: float
    aupr: float
    fpr95: float


def separation(normal: Array, strange: Array) -> Separation:
    """Return the metrics of scores ``(n,)`` and ``(m,)``; raise ``ValueError`` for an empty set or infinite scores."""
    if not (len(normal) and len(strange)):
        raise ValueError(f"expected scores of normal and of anomalous images, got {len(normal)} and {len(strange)}")
    if not (np.isfinite(normal).all() and np.isfinite(strange).all()):
        raise ValueError("expected finite scores, got NaN or infinity")
    normal, strange = np.sort(normal), np.sort(strange)
    true, false = _at_least(strange, strange), _at_least(normal, strange)
    auroc = float(_placements(normal, strange).mean())
    return Separation(auroc, float((true / (true + false)).mean()), float(false[_allowed(len(strange))] / len(normal)))


def intervals(normal: Array, strange: Array) -> tuple[Interval, Interval, Interval]:
    """Return 95 % intervals: Clopper-Pearson by placements (DeLong et al. 1988), for FPR by order statistics."""
    point = separation(normal, strange)
    normal, strange = np.sort(normal), np.sort(strange)
    images = min(len(normal), len(strange))
    # The first image that ranks wrongly changes the precision most: one more of each kind, which do, bounds its share.
    worst = np.append(normal, max(normal[-1], strange[-1]) + 1), np.append(min(normal[0], strange[0]) - 1, strange)
    return (
        _interval(point.auroc, _variance(*_auroc_influences(normal, strange)), images, AUROC_PRIOR),
        _interval(point.aupr, _variance(*_precision_influences(*worst)), images, 1),
        _fpr_interval(normal, strange),
    )


def auroc_gain(normal: tuple[Array, Array], strange: tuple[Array, Array]) -> tuple[float, Interval]:
    """Return the difference of two AUROCs on the same images, with its 95 % interval (Zou and Donner 2008)."""
    pairs = list(zip(normal, strange, strict=True))
    one, other = (separation(*pair).auroc for pair in pairs)
    (low, high), (other_low, other_high) = (intervals(*pair)[0] for pair in pairs)
    covariance = np.zeros((2, 2))
    for part in zip(*(_auroc_influences(*pair) for pair in pairs), strict=True):
        if len(part[0]) > 1:
            covariance += np.cov(part) / len(part[0])
    spread = np.sqrt(covariance[0, 0] * covariance[1, 1])
    correlation = float(covariance[0, 1] / spread) if spread > 0 else 0.0
    below = _together(one - low, other_high - other, correlation)
    above = _together(high - one, other - other_low, correlation)
    return one - other, (one - other - below, one - other + above)


def _at_least(ordered: Array, thresholds: Array) -> NDArray[np.intp]:
    """Return how many of the sorted scores are at least each threshold."""
    return len(ordered) - np.searchsorted(ordered, thresholds, side="left")


def _placements(ordered: Array, values: Array) -> Array:
    """Return the share of the sorted scores that each value exceeds; equal ones count half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def _allowed(strange: int) -> int:
    """Return how many of the anomalous images may be missed at the threshold of the FPR."""
    return int((1 - TPR) * strange + 1e-9)


def _auroc_influences(normal: Array, strange: Array) -> tuple[Array, Array]:
    """Return what each normal and each anomalous image contributes to the AUROC."""
    return 1 - _placements(np.sort(strange), normal), _placements(np.sort(normal), strange)


def _precision_influences(normal: Array, strange: Array) -> tuple[Array, Array]:
    """Return what each normal and each anomalous image contributes to the average precision; both are sorted."""
    true, false = _at_least(strange, strange), _at_least(normal, strange)
    total = true + false
    losses, gains = (np.append(0, np.cumsum(of / total**2)) for of in (true, false))
    own = true / total + gains[np.searchsorted(strange, strange, "right")]
    return -losses[np.searchsorted(strange, normal, "right")] * (len(normal) / len(strange)), own


def _variance(*influences: Array) -> float:
    """Return the variance of a metric; a quarter, the largest of a share, is that of a single image."""
    return sum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else 0.25 for part in influences)


def _interval(share: float, variance: float, images: int, prior: float) -> Interval:
    """Return the Clopper-Pearson interval of a share of this variance, with a prior for a share near 1."""
    wrong = min(share, 1 - share) * images
    known = wrong * variance * images / (share * (1 - share)) if wrong else 0.0
    effective = images * (wrong + 1) / (known + prior)
    return clopper_pearson(share * effective, effective, 1 - TAIL)


def _fpr_interval(normal: Array, strange: Array) -> Interval:
    images = len(strange)
    first, last = (int(binom.ppf(level, images, 1 - TPR)) for level in (TAIL, 1 - TAIL))
    # With fewer than 72 anomalous images the threshold has no lower bound.
    most = int(np.sum(normal >= strange[first - 1])) if first else len(normal)
    least = int(np.sum(normal > strange[min(last, images - 1)]))
    low, high = (clopper_pearson(found, len(normal), 1 - TAIL) for found in (least, most))
    return low[0], high[1]


def _together(one: float, other: float, correlation: float) -> float:
    """Return the error of a difference from those of its two estimates, which are correlated."""
    return float(np.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other)))
