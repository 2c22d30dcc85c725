"""A conformal test martingale: an anytime-valid test of exchangeability with calibration images.

Each new image is ranked among the calibration images *and* all earlier images. If all of them are exchangeable, these
smoothed ranks are independent and uniform (Vovk, Gammerman, Shafer 2005, ch. 8). A capital of 1 that is bet against
that at fair odds ever reaches c with a probability of at most 1 / c (Ville 1939). So it may be compared with a
threshold after each image, without end. Ranks among the calibration images alone are uniform too, but they are not
independent, because all of them depend on the same few images.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

BLOCK = 128
"""Images that are ranked at once; the work is proportional to the square."""
EARLIER = np.tri(BLOCK, k=-1, dtype=bool)
PATIENCE = 100.0
"""Number of images after which 41 % of the capital has been bet. A larger number finds early changes later."""
SLOPES = (-1.5, -0.5, 0.5, 1.5)
"""Bets of density 1 + s (p - 1/2): ranks that have become somewhat lower or higher."""
SHAPES = ((0.4, 1.0), (1.0, 0.4), (0.7, 0.7), (1.5, 1.5))
"""Bets of a beta density: ranks near 0, near 1, near both, near neither."""
BETS = len(SLOPES) + len(SHAPES)
EXPONENT = 600.0
"""Numbers are added as they are if none is smaller than the largest by more than this power of e."""
SMALLEST = 1e-15
"""Ranks are kept this far from 0 and 1, where densities are infinite."""


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
    """Return the natural log-densities of the eight bets at ranks, ``(8, m)``."""
    from scipy.special import betaln  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    slopes = [np.log1p(slope * (ranks - 0.5)) for slope in SLOPES]
    low, high = np.log(ranks), np.log1p(-ranks)
    shapes = [(a - 1) * low + (b - 1) * high - betaln(a, b) for a, b in SHAPES]
    return np.array(slopes + shapes)
