"""Data for charts of anomaly scores: thinned ROC curves and histograms."""

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
    """Return the ROC curve of an anomaly score, as a list of at most ``points`` points.

    Each is a pair (false-positive rate, true-positive rate). The curve goes from (0, 0) to (1, 1).

    A curve with more corners is interpolated at false-positive rates that are evenly spaced in their square root, as
    small rates matter most.

    Args:
        normal: The scores of normal images, ``(n,)``.
        strange: The scores of anomalous images, ``(m,)``.
        points: Most points of the curve.
    """
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
    """Return common bin edges for the histograms of several sets of values.

    There are ``bins + 1`` edges, from the lowest 0.5 % quantile of a set to the highest 99.5 % quantile.

    Args:
        sets: The values of each set.
        bins: The number of bars.
        logarithmic: Whether edges are evenly spaced in log(1 + x), for values that are not negative.

    Raises:
        ValueError: There are no values.
    """
    low = min(float(np.quantile(values, OUTSIDE)) for values in sets if len(values))
    high = max(float(np.quantile(values, 1 - OUTSIDE)) for values in sets if len(values))
    high = high if high > low else low + 1.0
    if logarithmic:
        return np.expm1(np.linspace(np.log1p(max(low, 0.0)), np.log1p(high), bins + 1))
    return np.linspace(low, high, bins + 1)


def shares(values: Array, edges: Array) -> list[float]:
    """Return the fraction of all values that falls in each bin of a histogram with the given ``edges``.

    Values outside the edges count in the first or last bin.

    Shares are rounded to six digits. Without values they are 0.
    """
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return [round(float(count) / max(len(values), 1), 6) for count in counts]
