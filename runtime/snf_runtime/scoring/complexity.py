"""Complexity of images: the entropy of their prediction residuals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 256


def residual_entropy(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the entropy in bits/dim of MED residuals modulo 256 (LOCO-I, Weinberger et al. 2000, 3.1).

    >>> flat = np.full((1, 1, 8, 8), 7, dtype=np.uint8)
    >>> float(residual_entropy(flat)[0]) < 0.2
    True
    """
    x = images.astype(np.int16)
    left, upper, corner = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    left[..., 1:] = x[..., :-1]
    upper[..., 1:, :] = x[..., :-1, :]
    corner[..., 1:, 1:] = x[..., :-1, :-1]
    # The first column has only an upper neighbour and the first row only a left one.
    left[..., 1:, 0] = corner[..., 1:, 0] = upper[..., 1:, 0]
    upper[..., 0, 1:] = corner[..., 0, 1:] = left[..., 0, 1:]
    low, high = np.minimum(left, upper), np.maximum(left, upper)
    predicted = np.clip(left + upper - corner, low, high)
    residuals = ((x - predicted) % LEVELS).reshape(len(x), -1)
    offsets = LEVELS * np.arange(len(x))[:, None]
    counts = np.bincount((residuals + offsets).ravel(), minlength=LEVELS * len(x)).reshape(len(x), LEVELS)
    shares = counts / max(residuals.shape[1], 1)
    # A level without pixels adds nothing: 0 log 1.
    entropy: NDArray[np.float64] = -(shares * np.log(np.where(counts, shares, 1.0))).sum(1) / np.log(2)
    return entropy
