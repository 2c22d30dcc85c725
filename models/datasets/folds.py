"""Folds of a reference part that is too small for a calibration part beside it (cross-conformal prediction).

Each fold is judged by statistics of the others (Vovk 2015, "Cross-conformal predictors"). That holds only if a fold is
strange to the others, so what belongs together, a lot or equal pixels, is never in two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
MOST_OF_A_FOLD = 0.4
"""Twice the share of a fold in five: a lot above it makes folds of whole lots too unequal."""


def fold_units(
    groups: NDArray[np.int64], images: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int8], str]:
    """Return the fold of every image, ``(N,)`` in 0 ... 4, and "by group" or "by image".

    ``groups``, ``images``: ``(N,)`` numbers, equal for one lot, and for equal pixels, which are of one lot. By group
    where there are five or more and no fold gets more than two fifths of the images; else by image. Where fewer than
    five images differ there are as many folds as different images.
    """
    if len(np.unique(groups)) >= FOLDS:
        folds = _balanced(groups, generator)
        if np.bincount(folds).max() <= MOST_OF_A_FOLD * len(folds):
            return folds, "by group"
    return _balanced(images, generator), "by image"


def _balanced(unit: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int8]:
    """Give whole units, the largest first, to the fold that has the fewest images yet.

    Sizes then differ by one unit at most (Graham 1969); units of one size are taken in a random order.
    """
    _, unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    shuffled = generator.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled = np.zeros(min(FOLDS, len(sizes)), dtype=np.int64)
    fold = np.empty(len(sizes), dtype=np.int8)
    for one in order:
        fold[one] = np.argmin(filled)
        filled[fold[one]] += sizes[one]
    return fold[unit]
