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

MAX_CELLS = 1024
"""Most cells in which ranks among calibration images are counted."""
BLOCK = 128
"""Images that are ranked at once; the work is proportional to the square."""
EARLIER = np.tri(BLOCK, k=-1, dtype=bool)
"""Whether an image of a block, by row, comes after another, by column."""
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
    """Histogram of past images over p-value or brightness, from which a drift test ranks each new image.

    Calibration images and earlier images of a stream are counted in ordered cells.

    Memory is bounded, because only counts are kept. Images in the same cell are ordered by chance.

    Attributes:
        counts: Images of each cell, the most extreme cell first, ``(cells,)``.
        own: Weight of the new image itself, 0 or 1; see :meth:`of_p_values`.
    """

    counts: Counts
    own: int

    @classmethod
    def of_p_values(cls, images: int) -> RankCounts:
        """Return a drift test's initial histogram of conformal p-values, in which each possible rank counts once.

        n calibration images leave n + 1 gaps, in each of which the next image falls with a probability of 1 / (n + 1).
        This needs ranks of one calibration set without equal values: :attr:`Calibration.ranked` says whether it is so.
        After each image that gap counts once more: (1 + N_i) / (n + 1 + N) (Polya's urn). Neighbouring gaps may be
        joined, which keeps it exact. The gaps contain the weight of the new image.

        Args:
            images: The number n of calibration images.
        """
        ranks = images + 1
        width = _cell_width(images)
        counts = np.full(-(-ranks // width), width, dtype=np.int64)
        counts[-1] = ranks - width * (len(counts) - 1)
        return cls(counts, own=0)

    @classmethod
    def of_levels(cls, calibration: ArrayLike) -> RankCounts:
        """Return a histogram of calibration images by brightness, the initial state of a drift test.

        Brightness is the white level of an image, the 99 % quantile of its pixel values.

        ``calibration`` is the number of calibration images at each level, ``(levels,)``.
        """
        return cls(np.array(calibration, dtype=np.int64), own=1)

    def add(self, cells: Counts, generator: np.random.Generator) -> Array:
        """Return each new image's rank among all earlier images, and add the images to the histogram.

        The images are ranked by p-value or by brightness.

        The images are counted in their order of arrival. The ranks are smoothed: images in the same cell are ordered by
        chance.

        The rank is (#{more extreme} + u #{tied, itself included}) / #{all, itself included}, u uniform in (0, 1).

        Args:
            cells: The cell of each image, ``(m,)``.
            generator: Gives u, which orders images in the same cell.

        Returns:
            Ranks in (0, 1), ``(m,)``.
        """
        ranks = [self._add_block(cells[start : start + BLOCK], generator) for start in range(0, len(cells), BLOCK)]
        return np.concatenate([np.empty(0), *ranks])

    def _add_block(self, cells: Counts, generator: np.random.Generator) -> Array:
        ends = self.counts.cumsum()
        tied, extreme = self.counts[cells] + self.own, ends[cells] - self.counts[cells]
        if len(cells) > 1:
            earlier = EARLIER[: len(cells), : len(cells)]
            extreme += np.count_nonzero(earlier & (cells[:, None] > cells), axis=1)
            tied += np.count_nonzero(earlier & (cells[:, None] == cells), axis=1)
        ranks = (extreme + generator.random(len(cells)) * tied) / (ends[-1] + self.own + np.arange(len(cells)))
        self.counts += np.bincount(cells, minlength=len(self.counts))
        clipped: Array = np.clip(ranks, SMALLEST, 1 - SMALLEST)
        return clipped


def p_value_cells(p_values: ArrayLike, images: int) -> Counts:
    """Return the index of the ``RankCounts`` histogram bin that contains each conformal p-value.

    The cells are those of :meth:`RankCounts.of_p_values`. The result has the shape ``(m,)``.

    Raises:
        ValueError: A p-value is outside (0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError(f"p-values in (0, 1] are expected, got {p.min()} to {p.max()}")
    ranks = np.rint(p * (images + 1)).astype(np.int64)
    return (np.maximum(ranks, 1) - 1) // _cell_width(images)


def _cell_width(images: int) -> int:
    """Return the number of ranks in a cell: one, or more to bound the cells."""
    return -(-(images + 1) // MAX_CELLS)


@dataclass(eq=False)
class ConformalMartingale:
    """Conformal test martingale for drift: a capital bet against the uniformity of ranks among earlier images.

    The capital of the test starts at 1. A large capital is evidence that the ranks are not independent and uniform.

    The capital is divided equally among eight bets, each with a density on (0, 1), by which a rank multiplies the bet.
    It is bet little by little: after t images the share 1 / (1 + ln(1 + t / 100)) of it has not been bet, so that a
    change is found however late it comes. All amounts are kept as logarithms.

    Attributes:
        images: The number of ranks so far.
        log_bets: The natural logarithm of the capital in each bet, ``(8,)``; -inf before the first rank.
        log_capital: The natural logarithm of the capital, bet or not.
        log_highest: The largest ``log_capital`` so far, at least 0.
    """

    images: int = 0
    log_bets: Array = field(default_factory=lambda: np.full(BETS, -np.inf))
    log_capital: float = 0.0
    log_highest: float = 0.0

    def bet(self, ranks: Array) -> Array:
        """Update the betting capital by the ranks of new images; return the log of the capital after each image.

        Each rank is that of an image among all earlier images.

        A capital that grows is evidence of drift.

        The ranks are in (0, 1), ``(m,)``, and the result has the same shape.
        """
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
    """Return the log-densities of a drift test's eight bets at given ranks of images among earlier ones.

    The drift test bets by these densities that ranks are not uniform.

    The logarithms are natural.

    The ranks are in (0, 1), ``(m,)``. The result has a row for each of the eight bets, ``(8, m)``.
    """
    from scipy.special import betaln  # noqa: PLC0415 - SciPy takes long to import, and a start does without

    slopes = [np.log1p(slope * (ranks - 0.5)) for slope in SLOPES]
    low, high = np.log(ranks), np.log1p(-ranks)
    shapes = [(a - 1) * low + (b - 1) * high - betaln(a, b) for a, b in SHAPES]
    return np.array(slopes + shapes)
