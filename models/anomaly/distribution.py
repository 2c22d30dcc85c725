"""How strange the calibration images are: the distribution that p-values are ranks in, to be drawn and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.anomaly.conformal import DIGITS, flagged_ranks, smallest_p

Array = NDArray[np.float64]

ALPHAS = tuple(float(f"{digits}e-{power}") for power in (1, 2, 3, 4) for digits in (3, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.4))
"""From 0.3 down to 0.00004, close enough to each other that what lies between can be interpolated."""
TAIL = 0.999
"""Share of the images in bins of one width; T has a heavy tail, and the rest would leave them all in the first bin."""


@dataclass(frozen=True)
class Distribution:
    """A histogram of T: ``edges``, ``(bins + 1,)`` in nats, ``counts``, ``(bins,)``; and the T from which p <= alpha.

    ``quantiles``: alpha -> nats, for those of ``ALPHAS`` that so many images can attain.
    """

    edges: Array
    counts: NDArray[np.int64]
    quantiles: dict[float, float]


def distribution(reference: Sequence[Array], bins: int, largest: float) -> Distribution:
    """Return the distribution of T, nats, told up to ``largest``; ``reference``: of the calibration images by fold.

    All bins but the last are equally wide, from the smallest T to the 99.9 % quantile; the last goes on to the largest
    T, and holds at least one image. Where ties leave no room for that, all are equally wide. With several folds their
    images are counted together, and the quantiles are approximate: each fold compares with a statistic of its own.
    """
    values = np.minimum(np.sort(np.concatenate(reference)), largest)
    edges = _edges(values, bins)
    counts = np.histogram(values, edges)[0]
    reachable = [alpha for alpha in ALPHAS if alpha >= smallest_p(len(values))]
    return Distribution(edges, counts, {alpha: threshold(values, alpha) for alpha in reachable})


def threshold(ordered: Array, alpha: float) -> float:
    """Return the smallest T, nats, with p <= ``alpha`` among the sorted T of calibration images.

    p-values compare millionths of a nat, so it is one of them above the image of the last rank that is not flagged.
    """
    last = float(ordered[len(ordered) - flagged_ranks(len(ordered), alpha)])
    return round(round(last, DIGITS) + 10.0**-DIGITS, DIGITS)


def _edges(values: Array, bins: int) -> Array:
    smallest, largest = float(values[0]), float(values[-1])
    tail = float(np.quantile(values, TAIL, method="lower"))
    if smallest == largest:
        return np.linspace(smallest - 0.5, largest + 0.5, bins + 1)
    if not smallest < tail < largest:
        return np.linspace(smallest, largest, bins + 1)
    return np.append(np.linspace(smallest, tail, bins), largest)
