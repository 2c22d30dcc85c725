"""Uncertainty of a false-alarm rate: prediction intervals, and thresholds that bound it with confidence."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from snf_runtime.anomaly.conformal import flagged_ranks

CONFIDENCE = 0.95


def clopper_pearson(found: float, images: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the lower and the upper Clopper-Pearson confidence bound of a proportion.

    The lower and the upper bound each hold with the given confidence.

    They are quantiles of Beta(k, n - k + 1) and of Beta(k + 1, n - k) for k found of n (Clopper and Pearson 1934). The
    numbers may be fractions (Korn and Graubard 1998).
    """
    from scipy.special import betaincinv  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    lower = 0.0 if found == 0 else float(betaincinv(found, images - found + 1, 1 - confidence))
    upper = 1.0 if found == images else float(betaincinv(found + 1, images - found, confidence))
    return lower, upper


@lru_cache(maxsize=128)  # An evaluation asks for all of its scores, and most have as many images.
def false_alarm_interval(calibration: int, tests: int, alpha: float, level: float = 0.99) -> tuple[float, float]:
    """Return a prediction interval for the false-alarm rate on normal test images.

    The result is (low, high). With a probability of at least ``level``, the flagged share of ``tests`` normal images is
    from low to high.

    It holds for images that are exchangeable with the calibration images. Given n calibration images, the test at
    ``alpha`` flags a new image with a probability of distribution Beta(k, n + 1 - k), where k = floor(alpha (n + 1))
    ranks are flagged. The count in ``tests`` images is Beta-binomial (Bates et al. 2023).
    """
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
    """Return the largest p-value threshold whose false-alarm rate is at most ``alpha`` with high confidence.

    The rate is at most ``alpha`` with probability ``confidence`` or more. The result is None if no threshold is safe.

    There is none with too few calibration images.

    The rate at threshold k / (n + 1) is Beta(k, n + 1 - k), whatever the images (Vovk 2012; Bates et al. 2023).

    >>> safe_threshold(100, 0.01) is None, safe_threshold(1000, 0.01) < 0.01
    (True, True)
    """
    from scipy.special import betainc  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    ranks = np.arange(1, flagged_ranks(calibration, alpha) + 1)
    # The confidence falls with the number of flagged ranks.
    safe = int(np.sum(betainc(ranks, calibration + 1 - ranks, alpha) >= confidence))
    return safe / (calibration + 1) if safe else None


def images_needed(alpha: float, confidence: float = CONFIDENCE) -> int:
    """Return how many calibration images are needed to bound the false-alarm rate by ``alpha`` with ``confidence``.

    This is the smallest number for which :func:`safe_threshold` is not None.

    One flagged rank of n + 1 is safe where 1 - (1 - alpha)^n is at least the confidence.

    >>> images_needed(0.01), safe_threshold(298, 0.01), safe_threshold(299, 0.01) == 1 / 300
    (299, None, True)
    """
    images = max(1, math.floor(math.log1p(-confidence) / math.log1p(-alpha)) - 1)
    while safe_threshold(images, alpha, confidence) is None:
        images += 1
    return images
