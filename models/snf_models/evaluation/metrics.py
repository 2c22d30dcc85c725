"""How well scores separate two sets of images: metrics, intervals that ``benchmarks.intervals`` simulates, curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from snf_client.schemas.evaluations import Column, Curve, FalseAlarms, Rate, Result
from snf_models.anomaly.exchangeability import clopper_pearson, false_alarm_interval
from snf_models.evaluation.scored_sets import COMBINED, ImageScores, ScoreColumn
from snf_runtime.anomaly import calibration

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
    missed = int((1 - TPR) * len(strange) + 1e-9)  # anomalous images that may be missed at the threshold of the FPR
    auroc = float(_placements(normal, strange).mean())
    return Separation(auroc, float((true / (true + false)).mean()), float(false[missed] / len(normal)))


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


POINTS = 200
BINS = 60
OUTSIDE = 0.005
"""Share of the images at either end beyond the first or last edge; they count in the outermost bars."""


def roc_points(normal: Array, strange: Array, points: int = POINTS) -> list[tuple[float, float]]:
    """Return (false-positive rate, true-positive rate) from (0, 0) to (1, 1), with most points at small rates."""
    from sklearn.metrics import roc_curve  # noqa: PLC0415 - slow to load

    truth = np.repeat([0, 1], [len(normal), len(strange)])
    false, true, _ = roc_curve(truth, np.concatenate([normal, strange]))
    if len(false) > points:
        wanted = np.linspace(0, 1, points - 1) ** 2
        # The highest true-positive rate that a false-positive rate allows; linear between corners.
        last = np.concatenate([false[1:] != false[:-1], [True]])
        false, true = (
            np.concatenate([[0.0], wanted]),
            np.concatenate([[0.0], np.interp(wanted, false[last], true[last])]),
        )
    return [(round(float(x), 5), round(float(y), 5)) for x, y in zip(false, true, strict=True)]


def shared_edges(sets: list[Array], bins: int = BINS, logarithmic: bool = False) -> Array:
    """Return ``bins + 1`` edges between quantiles of all sets, even in log(1 + x) if ``logarithmic``."""
    low = min(float(np.quantile(values, OUTSIDE)) for values in sets if len(values))
    high = max(float(np.quantile(values, 1 - OUTSIDE)) for values in sets if len(values))
    high = high if high > low else low + 1.0
    if logarithmic:
        return np.expm1(np.linspace(np.log1p(max(low, 0.0)), np.log1p(high), bins + 1))
    return np.linspace(low, high, bins + 1)


def shares(values: Array, edges: Array) -> list[float]:
    """Return the share of values in each bin; values outside count in the first or last one."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return [round(float(count) / max(len(values), 1), 6) for count in counts]


DRAWN = ("combined", "family", "baseline")
"""Families of scores whose ROC curves are drawn."""


@dataclass(frozen=True)
class Thresholds:
    """Scores of normal images, among which others are ranked. The combined score has the calibration instead."""

    calibration_images: int
    ordered: Array  # each column sorted, ``(n, columns)``

    @classmethod
    def of(cls, calibration_images: int, scored: ImageScores) -> Thresholds:
        return cls(calibration_images, np.sort(scored.values, axis=0))

    def images(self, column: int) -> int:
        """Return the number of normal images among which a column is ranked."""
        return self.calibration_images if column == 0 else len(self.ordered)

    def p_values(self, scored: ImageScores, column: int) -> Array:
        """Return the conformal p-values of a column, ``(N,)``."""
        if column == 0:
            return scored.p_values
        return calibration.p_values([self.ordered[:, column]], [scored.values[:, column]])

    def rate(self, scored: ImageScores, column: int, alpha: float) -> Rate:
        """Return the share that is flagged at ``alpha``, or at the smallest p-value if that is larger."""
        alpha = max(alpha, calibration.smallest_p(self.images(column)))
        return Rate(alpha=alpha, share=float((self.p_values(scored, column) <= alpha).mean()))


def describe_columns(
    columns: Sequence[ScoreColumn], thresholds: Thresholds, normal: ImageScores, alphas: Sequence[float]
) -> list[Column]:
    """Describe each score, with its false alarms on normal images."""
    return [
        Column(
            name=column.name,
            label=column.label,
            family=column.family,
            false_alarms=[_false_alarms(thresholds, normal, place, alpha) for alpha in alphas],
        )
        for place, column in enumerate(columns)
    ]


def _false_alarms(thresholds: Thresholds, normal: ImageScores, column: int, alpha: float) -> FalseAlarms:
    flagged, images = thresholds.rate(normal, column, alpha), thresholds.images(column)
    low, high = false_alarm_interval(images, len(normal), flagged.alpha)
    inside = flagged.share is not None and low <= flagged.share <= high
    return FalseAlarms(
        alpha=flagged.alpha, share=flagged.share, interval=(low, high), inside=inside, calibration_images=images
    )


def compare(
    columns: Sequence[ScoreColumn],
    thresholds: Thresholds,
    normal: ImageScores,
    strange: ImageScores,
    alphas: Sequence[float],
) -> tuple[list[Result], str, float, Interval]:
    """Return the results of all scores, the best baseline, and the combined score's gain in AUROC with its interval."""
    results = []
    for place, column in enumerate(columns):
        own, other = normal.values[:, place], strange.values[:, place]
        point, (of_auroc, of_aupr, of_fpr95) = separation(own, other), intervals(own, other)
        results.append(
            Result(
                score=column.name,
                auroc=point.auroc,
                auroc_interval=of_auroc,
                aupr=point.aupr,
                aupr_interval=of_aupr,
                fpr95=point.fpr95,
                fpr95_interval=of_fpr95,
                detected=[thresholds.rate(strange, place, alpha) for alpha in alphas],
            )
        )
    names = [column.name for column in columns]
    baselines = (place for place, column in enumerate(columns) if column.family == "baseline")
    best = max(baselines, key=lambda place: results[place].auroc)
    pair = [names.index(COMBINED), best]
    return results, names[best], *auroc_gain(tuple(normal.values[:, pair].T), tuple(strange.values[:, pair].T))


def curves(
    columns: Sequence[ScoreColumn], normal: ImageScores, strange: ImageScores, families: Sequence[str]
) -> list[Curve]:
    return [
        Curve(score=column.name, points=roc_points(normal.values[:, place], strange.values[:, place]))
        for place, column in enumerate(columns)
        if column.family in families
    ]
