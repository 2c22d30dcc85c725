"""Conformal p-values: ranks of images among calibration images, and thresholds for false-alarm rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snf_runtime.errors import AlphaUnattainable

Array = NDArray[np.float64]

DEFAULT_ALPHA = 0.01
USUAL_ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
DIGITS = 6
"""Decimals of a statistic in nats that do not depend on the size of the batch."""
MAX_STATISTIC = 1e6
"""Upper bound of a reported T in nats: on some images the arithmetic of the statistics overflows."""
CELLS = 1024
"""Cells in which statistics are counted for tests of drift, of equal width in ln(1 + T)."""


def p_values(reference: Sequence[Array], statistics: Sequence[Array]) -> Array:
    """Return (1 + #{i: T_i >= T}) / (n + 1) of each image, with T rounded to a millionth of a nat, so that ties tie."""
    # One fold: P(p <= alpha) <= alpha (Vovk et al. 2005, ch. 2). K folds: close to that in practice, and at most
    # 2 alpha + 2 (1 - alpha) (K - 1) / (n + K) (Vovk 2015; Barber et al. 2021).
    at_least = [
        len(ordered) - np.searchsorted(np.round(ordered, DIGITS), np.round(values, DIGITS), side="left")
        for ordered, values in zip(reference, statistics, strict=True)
    ]
    total = sum(len(ordered) for ordered in reference)
    result: Array = (1 + np.sum(at_least, axis=0)) / (total + 1)
    return result


def statistic_cells(statistics: ArrayLike) -> NDArray[np.int64]:
    """Return the cell of each anomaly statistic T in nats, ``(m,)``; cell 0 has the largest."""
    heights = np.log1p(np.clip(statistics, 0, MAX_STATISTIC)) * (CELLS / math.log1p(MAX_STATISTIC))
    cells: NDArray[np.int64] = np.maximum(CELLS - 1 - heights.astype(np.int64), 0)
    return cells


def smallest_p(images: int) -> float:
    """Return 1 / (n + 1), the smallest p-value that n calibration images can give."""
    return 1 / (images + 1)


def default_alpha(smallest: float) -> float:
    """Return the default false-alarm rate, 0.01, or the smallest possible p-value where that is larger."""
    return max(DEFAULT_ALPHA, smallest)


def attainable_alpha(alpha: float | None, smallest: float) -> float:
    """Return the false-alarm rate, None for the default; raise ``AlphaUnattainable`` if it is below ``smallest``."""
    if alpha is None:
        return default_alpha(smallest)
    if alpha < smallest:
        raise AlphaUnattainable(alpha, smallest)
    return alpha


def flagged_ranks(calibration: int, alpha: float) -> int:
    """Return k = floor(alpha (n + 1)): an image is flagged if fewer than k of n images are at least as anomalous."""
    # p is a ratio of integers: the comparison must not depend on the rounding of alpha * (n + 1).
    return max(k for k in (0, *_around(alpha * (calibration + 1))) if k / (calibration + 1) <= alpha)


def _around(value: float) -> tuple[int, ...]:
    middle = math.floor(value)
    return tuple(k for k in (middle - 1, middle, middle + 1) if k >= 0)


ALPHAS = tuple(float(f"{digits}e-{power}") for power in (1, 2, 3, 4) for digits in (3, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.4))
"""From 0.3 down to 0.00004, dense enough to interpolate between them."""
TAIL = 0.999
"""Share of the images in bins of equal width. T has a heavy tail: with all of it, most images fall in one bin."""


@dataclass(frozen=True)
class Distribution:
    """Histogram of the anomaly statistic of normal images in nats, with the thresholds of attainable rates."""

    edges: Array
    counts: NDArray[np.int64]
    quantiles: dict[float, float]  # smallest flagged T for each alpha


def distribution(reference: Sequence[Array], bins: int, largest: float) -> Distribution:
    """Return a histogram up to the 99.9 % quantile, whose last bin goes on to the largest T, and the thresholds."""
    values = np.minimum(np.sort(np.concatenate(reference)), largest)
    edges = _edges(values, bins)
    counts = np.histogram(values, edges)[0]
    reachable = [alpha for alpha in ALPHAS if alpha >= smallest_p(len(values))]
    return Distribution(edges, counts, {alpha: threshold(values, alpha) for alpha in reachable})


def threshold(ordered: Array, alpha: float) -> float:
    """Return the smallest flagged T in nats: a millionth more than the last T that is not flagged at ``alpha``."""
    count = flagged_ranks(len(ordered), alpha)
    if not 1 <= count <= len(ordered):
        raise ValueError(f"expected a false-alarm rate from 1/{len(ordered) + 1} to below 1, got {alpha}")
    last = float(ordered[len(ordered) - count])
    return round(round(last, DIGITS) + 10.0**-DIGITS, DIGITS)


def _edges(values: Array, bins: int) -> Array:
    smallest, largest = float(values[0]), float(values[-1])
    tail = float(np.quantile(values, TAIL, method="lower"))
    if smallest == largest:
        return np.linspace(smallest - 0.5, largest + 0.5, bins + 1)
    if not smallest < tail < largest:
        return np.linspace(smallest, largest, bins + 1)
    return np.append(np.linspace(smallest, tail, bins), largest)
