"""Conformal p-values: the share of calibration images that are at least as strange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

Array = NDArray[np.float64]

DEFAULT_ALPHA = 0.01
ADVICE_ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
CONFIDENCE = 0.95
DIGITS = 6


def p_values(reference: Sequence[Array], statistics: Sequence[Array]) -> Array:
    """Return p = (1 + #{calibration images at least as strange}) / (n + 1) of each image, ``(N,)``.

    ``reference``: the sorted statistics of the calibration images of each fold, one fold in a split calibration.
    ``statistics``: those of the images by the fit of each fold, ``(N,)`` each. With one fold, images exchangeable with
    the calibration images get p <= alpha with probability at most alpha (Vovk et al. 2005, ch. 2); with several this is
    cross-conformal prediction (Vovk 2015), close to exact in practice; in the worst case the probability is at most
    2 alpha + 2 (1 - alpha) (K - 1) / (n + K) for K folds of n images together (Barber et al. 2021).

    Compared are values rounded to a millionth of a nat: the last digits of T depend on how many images were computed at
    once, and an image that equals a calibration image ties with it.
    """
    at_least = [
        len(ordered) - np.searchsorted(np.round(ordered, DIGITS), np.round(values, DIGITS), side="left")
        for ordered, values in zip(reference, statistics, strict=True)
    ]
    total = sum(len(ordered) for ordered in reference)
    result: Array = (1 + np.sum(at_least, axis=0)) / (total + 1)
    return result


def smallest_p(images: int) -> float:
    """Return the smallest p-value that ``images`` calibration images can give."""
    return 1 / (images + 1)


def false_alarm_interval(calibration: int, tests: int, alpha: float, level: float = 0.99) -> tuple[float, float]:
    """Return the interval that the share of flagged exchangeable images lies in with probability ``level``.

    Given n calibration images, the test at ``alpha`` flags a new image with probability Beta(k, n + 1 - k), where k =
    floor(alpha (n + 1)) ranks are flagged; the count in ``tests`` images is Beta-binomial (Bates et al. 2023).
    """
    ranks = flagged_ranks(calibration, alpha)
    if ranks == 0:
        return 0.0, 0.0
    if ranks > calibration:
        return 1.0, 1.0
    # Evaluations and tests ask for it, a service that starts does not; scipy.stats takes half a second to load.
    from scipy.stats import betabinom  # noqa: PLC0415

    low, high = betabinom(tests, ranks, calibration + 1 - ranks).interval(level)
    return float(low) / tests, float(high) / tests


def flagged_ranks(calibration: int, alpha: float) -> int:
    """Return k, the number of ranks with p <= ``alpha`` among ``calibration`` images."""
    # p is a ratio of integers: the comparison must not hang on the rounding of alpha * (n + 1).
    return max(k for k in (0, *_around(alpha * (calibration + 1))) if k / (calibration + 1) <= alpha)


def safe_threshold(calibration: int, alpha: float, confidence: float = CONFIDENCE) -> float | None:
    """Return the largest p threshold whose false-alarm rate is at most ``alpha`` with this confidence; None without.

    The rate at threshold k / (n + 1) is Beta(k, n + 1 - k), whatever the images (Vovk 2012; Bates et al. 2023).

    >>> safe_threshold(100, 0.01) is None, safe_threshold(1000, 0.01) < 0.01
    (True, True)
    """
    ranks = np.arange(1, flagged_ranks(calibration, alpha) + 1)
    # The more ranks are flagged, the less sure it is.
    safe = int(np.sum(betainc(ranks, calibration + 1 - ranks, alpha) >= confidence))
    return safe / (calibration + 1) if safe else None


def images_needed(alpha: float, confidence: float = CONFIDENCE) -> int:
    """Return the fewest calibration images for which :func:`safe_threshold` is not None.

    One flagged rank of n + 1 is safe where 1 - (1 - alpha)^n is at least the confidence.

    >>> images_needed(0.01), safe_threshold(298, 0.01), safe_threshold(299, 0.01) == 1 / 300
    (299, None, True)
    """
    images = max(1, math.floor(math.log1p(-confidence) / math.log1p(-alpha)) - 1)
    while safe_threshold(images, alpha, confidence) is None:
        images += 1
    return images


def _around(value: float) -> tuple[int, ...]:
    middle = math.floor(value)
    return tuple(k for k in (middle - 1, middle, middle + 1) if k >= 0)


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
