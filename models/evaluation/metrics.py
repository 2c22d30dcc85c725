"""How well scores separate two sets, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]

RESAMPLES = 1000
LEVEL = 0.95
TPR = 0.95
"""Share of anomalous images found at which false positives are counted."""
AT_ONCE = 2_000_000
"""Resampled counts held at once."""


@dataclass(frozen=True)
class Separation:
    """AUROC, average precision (AUPR) and false-positive rate at 95 % true positives, strange = positive."""

    auroc: float
    aupr: float
    fpr95: float


@dataclass(frozen=True)
class Resamples:
    """The same resamples of two sets for all scores: what differs between scores is then the scores alone.

    ``normal``, ``strange``: how often each image was drawn, uint8, ``(resamples, images)``.
    """

    normal: NDArray[np.uint8]
    strange: NDArray[np.uint8]

    @classmethod
    def draw(cls, normal: int, strange: int, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
        """Draw both sets anew with replacement, each to its own size (a stratified bootstrap)."""
        rng = np.random.default_rng(seed)
        return cls(_drawn(rng, normal, resamples), _drawn(rng, strange, resamples))


def separation(normal: Array, strange: Array) -> Separation:
    """Return how well a score, larger = stranger, separates ``(n,)`` normal from ``(m,)`` strange images.

    AUROC = P(strange > normal) + P(equal) / 2; average precision Σ (R_k - R_k-1) P_k over all thresholds; the smallest
    false-positive rate among thresholds with at least 95 % true positives. Computed by scikit-learn. Raises
    ``ValueError`` for an empty set or values that are not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # noqa: PLC0415 - slow to load

    truth = np.repeat([0, 1], [len(normal), len(strange)])
    values = np.concatenate([normal, strange])
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    reached = int(np.searchsorted(true, TPR - 1e-12))
    return Separation(
        float(roc_auc_score(truth, values)), float(average_precision_score(truth, values)), float(false[reached])
    )


def bootstrap(normal: Array, strange: Array, resamples: Resamples) -> Array:
    """Return AUROC, AUPR and FPR at 95 % TPR of each resample, ``(resamples, 3)``.

    Exact, and all resamples at once: a resample only changes how often an image counts, never the order of values.
    O(resamples (n + m)) after one sort.
    """
    order = np.argsort(-np.concatenate([normal, strange]), kind="stable")
    values = np.concatenate([normal, strange])[order]
    new = np.concatenate([[True], values[1:] != values[:-1]])
    starts = np.flatnonzero(_merged(new, order >= len(normal)))
    step = max(1, AT_ONCE // len(order))
    parts = []
    for start in range(0, len(resamples.normal), step):
        chosen = slice(start, start + step)
        drawn = np.zeros((len(resamples.normal[chosen]), len(order)), dtype=np.uint8)
        drawn[:, : len(normal)] = resamples.normal[chosen]
        negatives = np.add.reduceat(drawn[:, order], starts, axis=1, dtype=np.int64)
        drawn[:, : len(normal)], drawn[:, len(normal) :] = 0, resamples.strange[chosen]
        positives = np.add.reduceat(drawn[:, order], starts, axis=1, dtype=np.int64)
        parts.append(_of_counts(negatives, positives))
    return np.concatenate(parts)


def interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values ``(resamples,)``."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn(rng: np.random.Generator, size: int, resamples: int) -> NDArray[np.uint8]:
    found = np.empty((resamples, size), dtype=np.uint8)
    for row in found:
        # More than 255 of one image happen in sets of any size with a probability below 1e-200.
        row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
    return found


def _merged(new: NDArray[np.bool_], strange: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where groups begin: equal values together, and neighbours without a strange image, which tell nothing."""
    group = np.cumsum(new) - 1
    has_strange = np.bincount(group, weights=strange) > 0
    starts = np.concatenate([[True], has_strange[1:] | has_strange[:-1]])
    found: NDArray[np.bool_] = new & starts[group]
    return found


def _of_counts(negatives: Counts, positives: Counts) -> Array:
    """Return AUROC, AUPR, FPR from counts in groups of falling value, ``(resamples, groups)`` -> ``(resamples, 3)``."""
    true, false = positives.cumsum(1), negatives.cumsum(1)
    total, rest = true[:, -1], false[:, -1]
    auroc = (negatives * (true - positives / 2)).sum(1) / (total * rest)
    precision = true / np.maximum(true + false, 1)
    aupr = (positives * precision).sum(1) / total
    reached = (true >= TPR * total[:, None] - 1e-9).argmax(1)
    return np.stack([auroc, aupr, false[np.arange(len(false)), reached] / rest], 1)
