"""Metrics of how well an anomaly score separates two sets of images, with bootstrap intervals."""

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
"""True-positive rate at which the false-positive rate is reported."""
MAX_COUNTS = 2_000_000
"""Most resampled counts in memory together."""


@dataclass(frozen=True)
class Separation:
    """Metrics of how well an anomaly score separates normal from anomalous images.

    They are AUROC, average precision, and the false-positive rate at 95 % true positives.
    """

    auroc: float
    aupr: float
    fpr95: float


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of the normal and anomalous images, stored as the number of draws of each image.

    All scores share the same resamples, so that differences between scores are paired.

    Attributes:
        normal: How often each normal image was drawn, uint8, ``(images, resamples)``.
        strange: How often each anomalous image was drawn, uint8, ``(images, resamples)``.
    """

    normal: NDArray[np.uint8]
    strange: NDArray[np.uint8]

    @classmethod
    def draw(cls, normal: int, strange: int, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
        """Draw bootstrap resamples of the normal and the anomalous images, with replacement.

        Each resample has as many draws as there are images: n from the n normal images, and m from the m anomalous
        ones.

        Args:
            normal: The number of normal images.
            strange: The number of anomalous images.
            resamples: The number of resamples.
            seed: The seed of the random generator.
        """
        rng = np.random.default_rng(seed)
        return cls(_drawn(rng, normal, resamples), _drawn(rng, strange, resamples))


def separation(normal: Array, strange: Array) -> Separation:
    """Return AUROC, average precision and FPR of a score, which tell how well it finds anomalous images.

    AUROC = P(anomalous > normal) + P(equal) / 2. The average precision is Σ (R_k - R_k-1) P_k over all thresholds. FPR
    is the smallest false-positive rate among thresholds with at least 95 % true positives.

    Args:
        normal: The scores of normal images, ``(n,)``; larger = more anomalous.
        strange: The scores of anomalous images, ``(m,)``.

    Raises:
        ValueError: A set is empty, or a score is not finite.
    """
    values = np.concatenate([normal, strange])
    if not (len(normal) and len(strange)):
        raise ValueError(f"expected scores of normal and of anomalous images, got {len(normal)} and {len(strange)}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    group = _groups(values, len(normal))
    counts = [np.bincount(part, minlength=int(group.max()) + 1) for part in np.split(group, [len(normal)])]
    negatives, positives = (count[:, None].astype(np.float64) for count in counts)
    auroc, aupr, fpr95 = _of_counts(negatives, positives)[0].tolist()
    return Separation(auroc, aupr, fpr95)


def bootstrap(normal: Array, strange: Array, resamples: Resamples) -> Array:
    """Return the metrics of an anomaly score (AUROC and others) for each bootstrap resample of the images.

    The result is ``(resamples, 3)``: AUROC, average precision, and the false-positive rate at 95 % true positives.

    The result is exact. A resample changes how often an image counts, never the order of scores, so that all resamples
    share one sort and take O(resamples (n + m)) operations.

    Args:
        normal: The scores of normal images, ``(n,)``; larger = more anomalous.
        strange: The scores of anomalous images, ``(m,)``.
        resamples: How often each image was drawn.
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
    """Return the central confidence interval (low, high) of a statistic from its bootstrap values.

    It contains the share ``level`` of the values; 0.95 is 95 %.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn(rng: np.random.Generator, size: int, resamples: int) -> NDArray[np.uint8]:
    counts = np.empty((size, resamples), dtype=np.uint8)
    for column in range(resamples):
        # More than 255 draws of one image have a probability below 1e-200 in sets of any size.
        counts[:, column] = np.bincount(rng.integers(size, size=size), minlength=size)
    return counts


def _groups(values: Array, normal: int) -> NDArray[np.intp]:
    """Return the rank group of each image by its score; group 0 is the most anomalous.

    Only the first ``normal`` images are normal.

    Equal values are one group, and so are neighbours without an anomalous image: no metric changes within them.
    """
    _, falling = np.unique(-values, return_inverse=True)
    has_strange = np.bincount(falling, weights=np.arange(len(values)) >= normal) > 0
    begins = np.append(True, has_strange[1:] | has_strange[:-1])
    group: NDArray[np.intp] = (np.cumsum(begins) - 1)[falling]
    return group


def _sums(group: NDArray[np.intp], all_groups: NDArray[np.intp]) -> sparse.csr_array:
    """Return a sparse matrix, ``(groups, images)``, that sums counts of images over groups.

    Float32 is exact to 16 million.
    """
    ones, shape = np.ones(len(group), dtype=np.float32), (int(all_groups.max()) + 1, len(group))
    return sparse.csr_array((ones, (group, np.arange(len(group)))), shape=shape)


def _of_counts(negatives: Array, positives: Array) -> Array:
    """Return AUROC, AUPR, FPR from counts in groups of falling score, ``(groups, resamples)`` -> ``(resamples, 3)``."""
    true, false = positives.cumsum(0), negatives.cumsum(0)
    total, rest = true[-1], false[-1]
    auroc = np.einsum("gr,gr->r", negatives, true - positives / 2) / (total * rest)
    aupr = np.einsum("gr,gr->r", positives, true / np.maximum(true + false, 1)) / total
    reached = (true >= TPR * total - 1e-9).argmax(0)
    return np.stack([auroc, aupr, false[reached, np.arange(len(total))] / rest], 1)
