"""How well scores separate two sets, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array: TypeAlias = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
TPR = 0.95
"""Share of anomalous images found at which false positives are counted."""
MAX_COUNTS = 2_000_000
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

    ``normal``, ``strange``: how often each image was drawn, uint8, ``(images, resamples)``.
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
    group = _groups(np.concatenate([normal, strange]), len(normal))
    normal_sums, strange_sums = _sums(group[: len(normal)], group), _sums(group[len(normal) :], group)
    step = max(1, MAX_COUNTS // len(group))
    parts = []
    for start in range(0, resamples.normal.shape[1], step):
        chosen = slice(start, start + step)
        negatives = normal_sums @ resamples.normal[:, chosen].astype(np.float32)
        positives = strange_sums @ resamples.strange[:, chosen].astype(np.float32)
        parts.append(_of_counts(negatives.astype(np.float64), positives.astype(np.float64)))
    return np.concatenate(parts)


def interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values ``(resamples,)``."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn(rng: np.random.Generator, size: int, resamples: int) -> NDArray[np.uint8]:
    found = np.empty((size, resamples), dtype=np.uint8)
    for column in range(resamples):
        # More than 255 of one image happen in sets of any size with a probability below 1e-200.
        found[:, column] = np.bincount(rng.integers(size, size=size), minlength=size)
    return found


def _groups(values: Array, normal: int) -> NDArray[np.intp]:
    """Return the group of each image, 0 the strangest; the first ``normal`` images are normal, the others strange.

    Equal values are one group, and so are neighbours without a strange image: no metric changes within them.
    """
    _, falling = np.unique(-values, return_inverse=True)
    has_strange = np.bincount(falling, weights=np.arange(len(values)) >= normal) > 0
    begins = np.append(True, has_strange[1:] | has_strange[:-1])
    found: NDArray[np.intp] = (np.cumsum(begins) - 1)[falling]
    return found


def _sums(group: NDArray[np.intp], all_groups: NDArray[np.intp]) -> sparse.csr_array:
    """Return what sums counts of images over each group, ``(groups, images)``; float32 is exact to 16 million."""
    ones, shape = np.ones(len(group), dtype=np.float32), (int(all_groups.max()) + 1, len(group))
    return sparse.csr_array((ones, (group, np.arange(len(group)))), shape=shape)


def _of_counts(negatives: Array, positives: Array) -> Array:
    """Return AUROC, AUPR, FPR from counts in groups of falling value, ``(groups, resamples)`` -> ``(resamples, 3)``."""
    true, false = positives.cumsum(0), negatives.cumsum(0)
    total, rest = true[-1], false[-1]
    auroc = np.einsum("gr,gr->r", negatives, true - positives / 2) / (total * rest)
    aupr = np.einsum("gr,gr->r", positives, true / np.maximum(true + false, 1)) / total
    reached = (true >= TPR * total - 1e-9).argmax(0)
    return np.stack([auroc, aupr, false[reached, np.arange(len(total))] / rest], 1)
