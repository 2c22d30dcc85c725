"""Exchangeability with calibration images: an anytime-valid test, and the uncertainty of false-alarm rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy  # its modules are imported when they are first used: listing models needs none
from numpy.typing import ArrayLike, NDArray

from snf_runtime.anomaly.calibration import flagged_ranks

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

BLOCK = 128  # images that are ranked at once; the work is proportional to the square
EARLIER = np.tri(BLOCK, k=-1, dtype=bool)
PATIENCE = 100.0
"""Number of images after which 41 % of the capital has been bet. A larger number finds early changes later."""
SLOPES = (-1.5, -0.5, 0.5, 1.5)  # bets of density 1 + s (p - 1/2): ranks that have become somewhat lower or higher
SHAPES = ((0.4, 1.0), (1.0, 0.4), (0.7, 0.7), (1.5, 1.5))
"""Bets of a beta density: ranks near 0, near 1, near both, near neither."""
BETS = len(SLOPES) + len(SHAPES)
EXPONENT = 600.0  # numbers are added as they are if none is smaller than the largest by more than this power of e
SMALLEST = 1e-15  # ranks are kept this far from 0 and 1, where densities are infinite


@dataclass(eq=False)
class RankCounts:
    """Histogram in fixed cells of calibration and past images: exact ranks in bounded memory, whatever the ties."""

    counts: Counts  # the most extreme cell first
    images: int = 0  # added to those of the calibration

    @classmethod
    def of(cls, calibration: ArrayLike) -> RankCounts:
        return cls(np.array(calibration, dtype=np.int64))

    def add(self, cells: Counts) -> Array:
        """Return (#{more extreme} + u #{tied, itself too}) / #{all} of each image in turn; its number gives u."""
        ranks = [self._add_block(cells[start : start + BLOCK]) for start in range(0, len(cells), BLOCK)]
        return np.concatenate([np.empty(0), *ranks])

    def _add_block(self, cells: Counts) -> Array:
        ends = self.counts.cumsum()
        tied, extreme = self.counts[cells] + 1, ends[cells] - self.counts[cells]
        if len(cells) > 1:
            earlier = EARLIER[: len(cells), : len(cells)]
            extreme += np.count_nonzero(earlier & (cells[:, None] > cells), axis=1)
            tied += np.count_nonzero(earlier & (cells[:, None] == cells), axis=1)
        ranks = (extreme + _uniform(self.images, len(cells)) * tied) / (ends[-1] + 1 + np.arange(len(cells)))
        self.counts += np.bincount(cells, minlength=len(self.counts))
        self.images += len(cells)
        clipped: Array = np.clip(ranks, SMALLEST, 1 - SMALLEST)
        return clipped


def _uniform(start: int, count: int) -> Array:
    """Return the uniform numbers of the images ``start`` to ``start + count - 1`` of any stream."""
    blocks, skipped = divmod(start, 4)  # Philox makes four numbers of each count
    return np.random.Generator(np.random.Philox(key=0, counter=blocks)).random(skipped + count)[skipped:]


@dataclass(eq=False)
class ConformalMartingale:
    """Capital in eight bets against uniform ranks, of which 1 / (1 + ln(1 + t / 100)) is unbet after t images."""

    images: int = 0
    log_bets: Array = field(default_factory=lambda: np.full(BETS, -np.inf))
    log_capital: float = 0.0
    log_highest: float = 0.0  # at least 0

    def bet(self, ranks: Array) -> Array:
        """Bet on ranks in (0, 1), and return ln of the capital after each."""
        if not len(ranks):
            return np.empty(0)
        images = self.images + np.arange(len(ranks) + 1)
        waiting = 1 / (1 + np.log1p(images / PATIENCE))
        # The difference of successive shares, without cancellation.
        entered = np.log1p(1 / (PATIENCE + images[:-1])) * waiting[:-1] * waiting[1:]
        gains = log_densities(ranks)
        total = gains.cumsum(axis=1)
        # A bet grows from C to (C + e_t) f_t: its logarithm is the sum of gains plus that of all that was entered, each
        # divided by the gains before.
        parts = np.log(entered / BETS) - (total - gains)
        parts[:, 0] = np.logaddexp(parts[:, 0], self.log_bets)
        bets = _log_sums(parts) + total
        capital: Array = np.logaddexp(np.logaddexp.reduce(bets, axis=0), np.log(waiting[1:]))
        self.images += len(ranks)
        self.log_bets, self.log_capital = bets[:, -1].copy(), float(capital[-1])
        self.log_highest = max(self.log_highest, float(capital.max()))
        return capital


def _log_sums(logarithms: Array) -> Array:
    """Return the logarithm of the cumulative sum, by row, of numbers whose logarithms are given, ``(8, m)``."""
    largest = logarithms.max(axis=1, keepdims=True)
    if (largest - logarithms).max() < EXPONENT:
        sums: Array = np.log(np.exp(logarithms - largest).cumsum(axis=1)) + largest
    else:
        # Slower, but exact for numbers of any size.
        sums = np.logaddexp.accumulate(logarithms, axis=1)
    return sums


def log_densities(ranks: Array) -> Array:
    slopes = [np.log1p(slope * (ranks - 0.5)) for slope in SLOPES]
    low, high = np.log(ranks), np.log1p(-ranks)
    shapes = [(a - 1) * low + (b - 1) * high - scipy.special.betaln(a, b) for a, b in SHAPES]
    return np.array(slopes + shapes)


CONFIDENCE = 0.95


def clopper_pearson(found: float, images: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return both one-sided bounds of a share (Clopper & Pearson 1934); fractions are fine (Korn & Graubard 1998)."""
    lower = 0.0 if found == 0 else float(scipy.special.betaincinv(found, images - found + 1, 1 - confidence))
    upper = 1.0 if found == images else float(scipy.special.betaincinv(found + 1, images - found, confidence))
    return lower, upper


@lru_cache(maxsize=128)  # An evaluation asks for all of its scores, and most have as many images.
def false_alarm_interval(calibration: int, tests: int, alpha: float, level: float = 0.99) -> tuple[float, float]:
    """Return the interval of the flagged share of ``tests`` exchangeable images: Beta-binomial (Bates et al. 2023)."""
    ranks = flagged_ranks(calibration, alpha)
    if ranks == 0:
        return 0.0, 0.0
    if ranks > calibration:
        return 1.0, 1.0
    low, high = scipy.stats.betabinom(tests, ranks, calibration + 1 - ranks).interval(level)
    return float(low) / tests, float(high) / tests


def safe_threshold(calibration: int, alpha: float, confidence: float = CONFIDENCE) -> float | None:
    """Return the largest k / (n + 1) whose rate Beta(k, n + 1 - k) is at most ``alpha`` with confidence, or None.

    >>> safe_threshold(100, 0.01) is None, safe_threshold(1000, 0.01) < 0.01
    (True, True)
    """
    ranks = np.arange(1, flagged_ranks(calibration, alpha) + 1)
    # The confidence falls with the number of flagged ranks.
    safe = int(np.sum(scipy.special.betainc(ranks, calibration + 1 - ranks, alpha) >= confidence))
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
