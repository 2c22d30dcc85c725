"""Uncertainty of a false-alarm rate: prediction intervals, and thresholds that bound it with confidence."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from snf_runtime.anomaly.conformal import flagged_ranks

CONFIDENCE = 0.95


def clopper_pearson(found: float, images: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return both one-sided bounds of a share (Clopper & Pearson 1934); fractions are fine (Korn & Graubard 1998)."""
    from scipy.special import betaincinv  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    lower = 0.0 if found == 0 else float(betaincinv(found, images - found + 1, 1 - confidence))
    upper = 1.0 if found == images else float(betaincinv(found + 1, images - found, confidence))
    return lower, upper


@lru_cache(maxsize=128)  # An evaluation asks for all of its scores, and most have as many images.
def false_alarm_interval(calibration: int, tests: int, alpha: float, level: float = 0.99) -> tuple[float, float]:
    """Return the interval of the flagged share of ``tests`` exchangeable images: Beta-binomial (Bates et al. 2023)."""
    ranks = flagged_ranks(calibration, alpha)
    if ranks == 0:
        return 0.0, 0.0
    if ranks > calibration:
        return 1.0, 1.0
    # Only evaluations need it, and scipy.stats takes half a second to load.
    from scipy.stats import betabinom  # noqa: PLC0415

    low, high = betabinom(tests, ranks, calibration + 1 - ranks).interval(level)
    return float(low) / tests, float(high) / tests


def safe_threshold(calibration: int, alpha: float, confidence: float = CONFIDENCE) -> float | None:
    """Return the largest k / (n + 1) whose rate Beta(k, n + 1 - k) is at most ``alpha`` with confidence, or None.

    >>> safe_threshold(100, 0.01) is None, safe_threshold(1000, 0.01) < 0.01
    (True, True)
    """
    from scipy.special import betainc  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    ranks = np.arange(1, flagged_ranks(calibration, alpha) + 1)
    # The confidence falls with the number of flagged ranks.
    safe = int(np.sum(betainc(ranks, calibration + 1 - ranks, alpha) >= confidence))
    return safe / (calibration + 1) if safe else None


def images_needed(alpha: float, confidence: float = CONFIDENCE) -> int:
    """Return the least n with 1 - (1 - alpha)^n >= ``confidence``, for which :func:`safe_threshold` is not None.

    >>> images_needed(0.01), safe_threshold(298, 0.01), safe_threshold(299, 0.01) == 1 / 300
    (299, None, True)
    """
    images = max(1, math.floor(math.log1p(-confidence) / math.log1p(-alpha)) - 1)
    while safe_threshold(images, alpha, confidence) is None:
        images += 1
    return images
