from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

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
