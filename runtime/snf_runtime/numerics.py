"""Mathematical functions that NumPy lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logsumexp(values: Array, weights: Array | None = None) -> Array:
    """Return ln Σ w exp(v) over the last axis without overflow; weights None stand for 1.

    >>> round(float(logsumexp(np.array([1000.0, 1000.0]))), 6)
    1000.693147
    """
    if weights is not None:  # 0 times infinity would be no number
        values = np.where(weights == 0, -np.inf, values)
    largest = values.max(-1, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    shares = np.exp(values - largest)
    with np.errstate(divide="ignore"):
        result: Array = np.log((shares if weights is None else weights * shares).sum(-1)) + largest[..., 0]
    return result
