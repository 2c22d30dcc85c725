"""The anomaly statistic T of an image: p-values under distributions of normal images, merged into one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from snf_runtime.scoring.evidence import Evidence, FeatureEvidence, Region, is_channel_statistic, logsumexp, regions

Array = NDArray[np.float64]

POINTS = 256
TAIL = 0.05  # share of the reference values to which the tail is fitted
MIN_TAIL_VALUES = 5


@dataclass(frozen=True)
class Tail:
    """Survival function P(T >= t) of normal images; its log makes statistics comparable, but gives no p-values."""

    values: Array
    surprises: Array  # -ln P(T >= t) in nats, rising
    slope: Array  # nats for a unit of t beyond the last point: a generalised Pareto tail of shape 0

    @classmethod
    def fit(cls, reference: Array) -> Self:
        ordered = np.sort(reference)
        count = len(ordered)
        kept = max(1, count - max(MIN_TAIL_VALUES, round(TAIL * count)))
        threshold = ordered[kept - 1]
        places = np.unique(np.linspace(0, kept - 1, POINTS).round().astype(int))
        surprises = -np.log1p(-(places + 0.5) / (count + 1))
        excess = float(np.mean(ordered[kept:] - threshold)) if kept < count else 0.0
        scale = max(excess, 1e-3 * float(ordered.std()), 1e-9)
        values = np.interp(np.linspace(0, 1, POINTS), np.linspace(0, 1, len(places)), ordered[places])
        risen = np.interp(np.linspace(0, 1, POINTS), np.linspace(0, 1, len(places)), surprises)
        return cls(values, risen, np.array(1 / scale))

    def surprise(self, t: Array) -> Array:
        """Return -ln P(T >= t) in nats."""
        # T >= t includes the values equal to t: among tied points the first counts, which lies just below t.
        inside = np.interp(np.nextafter(t, -np.inf), self.values, self.surprises)
        beyond = np.maximum(t - self.values[-1], 0)
        surprise: Array = inside + self.slope * beyond
        return surprise


@dataclass(frozen=True)
class Gaussian:
    """A multivariate normal distribution that is fitted to samples, with mean μ and root Σ^-1/2."""

    mean: Array
    root: Array

    def components(self, samples: Array) -> Array:
        """Return Σ^-1/2 (u - μ), whose squares sum to the squared Mahalanobis distance (ZCA, Kessy et al. 2018)."""
        return (samples - self.mean) @ self.root


@dataclass(frozen=True)
class Mixture:
    """A mixture of m Gaussians that is fitted to K statistics of normal images, standardised first."""

    location: Array
    scale: Array
    log_weights: Array
    means: Array
    roots: Array  # A of each precision matrix A A', (m, K, K)

    @cached_property
    def _log_dets(self) -> Array:
        log_dets: Array = np.linalg.slogdet(self.roots).logabsdet
        return log_dets

    def surprisal(self, samples: Array) -> Array:
        """Return the negative log-density of each standardised sample, in nats."""
        u = (samples - self.location) / self.scale
        whitened = np.einsum("nmk,mkj->nmj", u[:, None, :] - self.means, self.roots)
        exponent = self._log_dets - 0.5 * np.square(whitened).sum(2) - 0.5 * u.shape[1] * math.log(2 * math.pi)
        return -logsumexp(exponent + self.log_weights)


MIN_IMAGES_CURVE, MIN_IMAGES_LINE = 200, 40
"""Images from which on mean and spread are curves of complexity, or straight lines; constants with fewer."""
KNOTS = 4
FLOOR = 1e-3  # smallest residual, as a share of their standard deviation: the logarithm of a spread must stay finite


@dataclass(frozen=True)
class Conditioning:
    """Conversion of statistics s to z-scores (s - m(c)) / σ(c), with natural cubic splines of complexity c."""

    knots: Array  # of c; with a single knot m and σ are constant
    mean: Array  # m at the knots, (k, K)
    log_spread: Array  # log σ at the knots, (k, K)
    lowest: Array  # smallest log σ over the reference images: σ is not extrapolated
    highest: Array

    @classmethod
    def fit(cls, statistics: Array, complexity: Array, images: int | None = None) -> Self:
        """Fit the mean, then the log of the residuals; ``images`` (None: n) decides on curves, lines or constants."""
        knots = _knots(complexity, len(complexity) if images is None else images)
        basis = _basis(complexity, knots)
        mean = _solve(basis, statistics)
        rest = np.abs(statistics - basis @ mean)
        floor = np.maximum(FLOOR * np.sqrt(np.square(rest).mean(0)), MIN_SPREAD)
        log_spread = _solve(basis, np.log(np.maximum(rest, floor)))
        # The mean of the logarithm is not the logarithm of the deviation: one factor for each statistic corrects that.
        z = rest / np.exp(basis @ log_spread)
        log_spread = log_spread + np.log(np.maximum(np.sqrt(np.square(z).mean(0)), MIN_SPREAD))
        fitted = basis @ log_spread
        return cls(knots, mean, log_spread, np.maximum(fitted.min(0), np.log(MIN_SPREAD)), fitted.max(0))

    def __call__(self, statistics: Array, complexity: Array) -> Array:
        """Return statistics, ``(N, K)``, as z-scores relative to images of the same complexity, given as ``(N,)``."""
        basis = _basis(complexity, self.knots)
        spread = np.exp(np.clip(basis @ self.log_spread, self.lowest, np.maximum(self.lowest, self.highest)))
        return (statistics - basis @ self.mean) / spread


def _knots(complexity: Array, count: int) -> Array:
    wanted = KNOTS if count >= MIN_IMAGES_CURVE else 2 if count >= MIN_IMAGES_LINE else 1
    knots = np.unique(np.quantile(complexity, np.linspace(0, 1, wanted)))
    # Where most images are equally complex, knots coincide, and a curve would oscillate between them.
    return knots if len(knots) == wanted else knots[:1]


def _basis(complexity: Array, knots: Array) -> Array:
    """Return the cardinal spline functions at N complexities, ``(N, k)``: each is 1 at one knot and 0 at the rest."""
    if len(knots) == 1:
        return np.ones((len(complexity), 1))
    if len(knots) == 2:
        share = (complexity - knots[0]) / (knots[1] - knots[0])
        return np.stack([1 - share, share], 1)
    curvature = _curvature(tuple(knots.tolist()))
    inside = np.clip(complexity, knots[0], knots[-1])
    cell = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    width = (knots[cell + 1] - knots[cell])[:, None]
    right = (inside - knots[cell])[:, None] / width
    left = 1 - right
    one = np.eye(len(knots))
    value = left * one[cell] + right * one[cell + 1]
    bend = (left**3 - left) * curvature[cell] + (right**3 - right) * curvature[cell + 1]
    slope = (one[cell + 1] - one[cell]) / width
    turn = (3 * right**2 - 1) * curvature[cell + 1] - (3 * left**2 - 1) * curvature[cell]
    beyond = (complexity - inside)[:, None]
    return value + bend * width**2 / 6 + beyond * (slope + turn * width / 6)


@lru_cache(maxsize=256)
def _curvature(knots: tuple[float, ...]) -> Array:
    """Return the splines' second derivatives at the knots, by a tridiagonal system (de Boor 1978, ch. 4)."""
    widths, count = np.diff(knots), len(knots)
    system, right = np.eye(count), np.zeros((count, count))
    for i in range(1, count - 1):
        before, after = widths[i - 1], widths[i]
        system[i, i - 1 : i + 2] = before, 2 * (before + after), after
        right[i, i - 1 : i + 2] = 6 / before, -6 / before - 6 / after, 6 / after
    return np.linalg.solve(system, right).astype(np.float64)


def _solve(basis: Array, values: Array) -> Array:
    return np.linalg.lstsq(basis, values, rcond=None)[0].astype(np.float64)


@dataclass(frozen=True)
class DensityView:
    """Gaussian mixture over some columns of whole-image statistics, fitted to normal images."""

    columns: NDArray[np.int64]
    density: Mixture
    tail: Tail

    def surprise(self, statistics: Array) -> Array:
        """Return -ln of the probability that a normal image has a density at most as large."""
        return self.tail.surprise(self.surprisal(statistics))

    def surprisal(self, statistics: Array) -> Array:
        """Return the negative log-density of each image, in nats."""
        return self.density.surprisal(statistics[:, self.columns])


@dataclass(frozen=True)
class WholeImageGroup:
    """Mixtures over sets of whole-image statistics, whose weighted -ln p are added (Fisher; Good 1955)."""

    used: NDArray[np.int64]  # columns that carry information besides complexity
    location: Array
    scale: Array
    conditioning: Conditioning
    gaussian: Gaussian
    views: tuple[DensityView, ...]
    joint: Tail
    shares: Array | None = None  # None without statistics of channels: all are 1

    def __post_init__(self) -> None:
        shape = None if self.shares is None else self.shares.shape
        if (len(self.views), shape) not in ((3, None), (4, (4,))):
            raise ValueError(
                f"expected 3 densities of the whole image, or 4 with 4 shares, got {len(self.views)}, shares {shape}"
            )

    def standardised(self, statistics: Array) -> Array:
        """Return k statistics relative to images of like complexity, then complexity itself, ``(N, k + 1)``."""
        return z_scores(statistics, self.used, self.location, self.scale, self.conditioning)

    def components(self, statistics: Array) -> Array:
        """Return uncorrelated z-scores whose squares sum to the squared Mahalanobis distance, ``(N, k + 1)``."""
        return self.gaussian.components(self.standardised(statistics))

    def surprise(self, statistics: Array) -> Array:
        """Return -ln p of each image: the sum over the densities by its distribution over normal images."""
        surprises = np.stack([view.surprise(statistics) for view in self.views], 1)
        return self.joint.surprise(total_surprise(surprises, self.shares))

    def surprisals(self, statistics: Array) -> Array:
        """Return the negative log-densities of each image, ``(N, views)``."""
        return np.stack([view.surprisal(statistics) for view in self.views], 1)


def total_surprise(surprises: Array, shares: Array | None) -> Array:
    """Return the weighted sum of surprises over views; ``shares`` None stands for 1 each."""
    total: Array = np.sum(surprises if shares is None else surprises * shares, axis=1)
    return total


def z_scores(
    statistics: Array, used: NDArray[np.int64], location: Array, scale: Array, conditioning: Conditioning
) -> Array:
    """Return the columns ``used`` relative to images of like complexity, then complexity itself, ``(N, k + 1)``."""
    given = conditioning(statistics[:, used], statistics[:, 0])
    return np.concatenate([given, (statistics[:, :1] - location) / scale], axis=1)


MIN_SPREAD = 1e-9
MIN_EXTREME = 0.1  # smallest extreme before its logarithm is taken


@dataclass(frozen=True)
class RegionGroup:
    """Gaussian model of log-likelihoods of cells: z_B = w' C (P v)_B / sqrt(w' C w) of region B, given the rest."""

    # P is the precision matrix of the cells v, w their standard deviations, C = (P_BB)^-1. z is standard normal under
    # the model and linear in v. A hole is far more likely than its surroundings predict, a scratch far less.
    grid: NDArray[np.int64]
    location: Array
    scale: Array
    weights: NDArray[np.float32]  # coefficients of z, (cells, regions), float32
    conditioning: Conditioning
    tails: tuple[Tail, ...]
    joint: Tail

    @cached_property
    def _weights(self) -> Array:
        return self.weights.astype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.grid[0]), int(self.grid[1])

    def deviations(self, cells: Array) -> Array:
        """Return z-scores of regions given the rest, from cells in nats; positive where more likely than predicted."""
        return ((cells - self.location) / self.scale) @ self._weights

    def unevenness(self, cells: Array) -> Array:
        """Return ln of the mean z² over all regions of each shape, about 0 for reference images."""
        squares = np.square(self.deviations(cells))
        means = [part.mean(1) for part in _by_shape(squares, self.shape)]
        return np.log(np.stack(means, 1) + MIN_SPREAD)

    def surprises(self, cells: Array, complexity: Array) -> Array:
        """Return -ln p of the most and the least likely region of each shape, ``(N, 2 * shapes)``."""
        extremes = log_extremes(self.deviations(cells), self.shape)
        return tail_surprises(self.conditioning(extremes, complexity), self.tails)

    def surprise(self, cells: Array, complexity: Array) -> Array:
        """Return -ln p of each image by its most unusual region."""
        return self.joint.surprise(self.surprises(cells, complexity).max(1))

    def most_surprising(self, cells: Array, complexity: Array) -> list[tuple[Region, float]]:
        """Return each image's most unusual region and its z-score."""
        z, extremes = self.deviations(cells), self.surprises(cells, complexity).argmax(1)
        ends = np.cumsum([0] + [len(shape) for shape in regions(*self.shape)])
        flat = all_regions(self.shape)
        strongest = []
        for row, place in zip(z, extremes.tolist(), strict=True):
            start, stop = ends[place // 2], ends[place // 2 + 1]
            part = row[start:stop]
            best = start + int(part.argmin() if place % 2 else part.argmax())
            strongest.append((flat[best], float(row[best])))
        return strongest


def all_regions(grid: tuple[int, int]) -> list[Region]:
    """List the squares, smallest first, then full rows and columns: the order of the columns of z-scores."""
    return [region for shape in regions(*grid) for region in shape]


def log_extremes(z: Array, grid: tuple[int, int]) -> Array:
    """Return ln of the largest z and of minus the smallest, at least 0.1, for each shape, ``(N, 2 * shapes)``."""
    columns = [extreme for part in _by_shape(z, grid) for extreme in (part.max(1), -part.min(1))]
    extremes: Array = np.log(np.maximum(np.stack(columns, 1), MIN_EXTREME))
    return extremes


def _by_shape(z: Array, grid: tuple[int, int]) -> list[Array]:
    """Divide columns, one for each region, into those of each shape."""
    ends = np.cumsum([len(shape) for shape in regions(*grid)])
    if ends[-1] != z.shape[1]:
        raise ValueError(f"expected {ends[-1]} regions on a grid of {grid[0]} x {grid[1]}, got {z.shape[1]}")
    return np.split(z, ends[:-1], axis=1)


def tail_surprises(z: Array, tails: tuple[Tail, ...]) -> Array:
    """Return -ln p of each column by its own survival function."""
    return np.stack([tail.surprise(column) for tail, column in zip(tails, z.T, strict=True)], 1)


FEATURE_STATISTICS = ("feature-place", "feature-area", "feature-mean", "feature-image")
"""Names of the statistics: the largest place, the mean of the highest places, both groups of pooled features."""
SHARES = (2 / 6, 2 / 6, 1 / 6, 1 / 6)
"""Weights of their p-values: both groups of pooled features together weigh as much as the place."""
SHARES_OF_TILES = (0.9, 0.04, 0.03, 0.03)
"""The same for images of several tiles: a small defect is one place of many thousands, which no mean shows."""
AREA = 0.05  # share of the places, the highest ones, that the second statistic averages
PLACE_FIRST = math.log(3)
"""Pooled features are the reason only where their -ln p is larger by this: a reason with a place helps more."""


@dataclass(frozen=True)
class FeatureGroup:
    """Four statistics of features, merged into one p-value: two of the map of places, two of pooled features."""

    fit_number: NDArray[np.int64]  # ``(1,)``: 0 is the fit to all training images, others leave a part out
    centre: Array  # mean -log-density at each place, nats
    tails: tuple[Tail, Tail, Tail, Tail]
    joint: Tail
    sizes: Conditioning | None = None  # by ln of the number of places; None if all are of one size

    @classmethod
    def fit(cls, evidence: FeatureEvidence) -> Self:
        """Fit the centre of the maps and the tails to normal images, with fit 0 of the features."""
        centre = evidence.places[:, 0].mean(0, dtype=np.float64)
        values, sizes = _statistics(evidence, 0, centre), None
        places = _log_places(evidence)
        if len(np.unique(places)) > 1:
            # Lines whatever the number of images: a largest value grows with the logarithm of the number of places.
            sizes = Conditioning.fit(values, places, MIN_IMAGES_LINE)
            values = _relative(sizes, values, places)
        place, area, mean, image = (Tail.fit(column) for column in values.T)
        tails = place, area, mean, image
        joint = Tail.fit(merge(tail_surprises(values, tails), _shares(evidence)))
        return cls(np.zeros(1, dtype=np.int64), centre, tails, joint, sizes)

    def maps(self, evidence: FeatureEvidence) -> list[Array]:
        """Return each image's negative log-densities at places less their means over normal images, nats."""
        return _maps(evidence, int(self.fit_number[0]), self.centre)

    def statistics(self, evidence: FeatureEvidence) -> Array:
        """Return the columns of ``FEATURE_STATISTICS`` for each image, in nats."""
        return _statistics(evidence, int(self.fit_number[0]), self.centre)

    def surprises(self, evidence: FeatureEvidence) -> Array:
        """Return -ln p of the columns of :meth:`statistics`."""
        return tail_surprises(self._of_size(evidence), self.tails)

    def surprise(self, evidence: FeatureEvidence) -> Array:
        """Return -ln p of each image, merged from all four statistics."""
        return self.joint.surprise(merge(self.surprises(evidence), _shares(evidence)))

    def _of_size(self, evidence: FeatureEvidence) -> Array:
        """Return the statistics, relative to normal images of the same size if sizes differ, ``(N, 4)``."""
        values = self.statistics(evidence)
        return values if self.sizes is None else _relative(self.sizes, values, _log_places(evidence))

    def strongest(self, evidence: FeatureEvidence) -> list[tuple[str, float, tuple[int, int]]]:
        """Return each image's most unusual statistic, its -ln p, and row and column of its most unusual place."""
        surprises = self.surprises(evidence)
        preferred = surprises - np.array([0.0, 0.0, PLACE_FIRST, PLACE_FIRST])
        return [
            (FEATURE_STATISTICS[best], float(row[best]), divmod(int(of_image.argmax()), of_image.shape[1]))
            for row, best, of_image in zip(surprises, preferred.argmax(1).tolist(), self.maps(evidence), strict=True)
        ]

    def strongest_tile(self, evidence: FeatureEvidence, number: int, name: str) -> tuple[int, int, int, int] | None:
        """Return the box of the most unusual tile; None for a statistic of places, and for images of one tile."""
        group = FEATURE_STATISTICS.index(name) - 2
        if evidence.plans is None or group < 0:
            return None
        start, stop = evidence.tiles[number]
        return evidence.plans[number].box(int(evidence.pooled[start:stop, int(self.fit_number[0]), group].argmax()))


def _maps(evidence: FeatureEvidence, number: int, centre: Array) -> list[Array]:
    if evidence.plans is None:
        return list(evidence.places[:, number] - centre)
    return [
        plan.merged(evidence.places[start:stop, number] - centre)
        for plan, (start, stop) in zip(evidence.plans, evidence.tiles, strict=True)
    ]


def _statistics(evidence: FeatureEvidence, number: int, centre: Array) -> Array:
    pooled = evidence.pooled[:, number]
    if evidence.plans is None:
        of_places = _of_maps((evidence.places[:, number] - centre).reshape(len(evidence), -1))
    else:
        maps = [_of_maps(of_image.reshape(1, -1)) for of_image in _maps(evidence, number, centre)]
        of_places = np.concatenate([np.zeros((0, 2)), *maps])
        # For normal images as for new ones: a maximum is ranked among maxima.
        largest = [pooled[start:stop].max(0) for start, stop in evidence.tiles]
        pooled = np.stack([pooled[0], *largest])[1:] if largest else pooled
    return np.concatenate([of_places, pooled], 1)


def _log_places(evidence: FeatureEvidence) -> Array:
    """Return the logarithm of the number of places of each image, ``(N,)``; 0 where all images are single tiles."""
    return np.log([math.prod(plan.grid) for plan in evidence.plans]) if evidence.plans else np.zeros(len(evidence))


def _relative(sizes: Conditioning, values: Array, places: Array) -> Array:
    # Image by image: the last digits of a product of matrices depend on its number of rows.
    rows = [sizes(values[image : image + 1], places[image : image + 1]) for image in range(len(values))]
    return np.concatenate([np.zeros((0, values.shape[1])), *rows])


def _of_maps(maps: Array) -> Array:
    """Return the largest value of each map, and the mean of its highest twentieth, ``(N, places) -> (N, 2)``."""
    count = max(1, math.ceil(AREA * maps.shape[1]))
    highest = np.partition(maps, -count, axis=1)[:, -count:] if count < maps.shape[1] else maps
    return np.stack([maps.max(1), np.sort(highest, axis=1).mean(1)], 1)


def _shares(evidence: FeatureEvidence) -> Array:
    return np.array(SHARES if evidence.plans is None else SHARES_OF_TILES)


EvidenceKind = Literal["whole", "local", "features"]
"""A group of statistics with a p-value of its own: of the whole image, of regions, of features."""
WEIGHTS: dict[EvidenceKind, float] = {"whole": 1.0, "local": 0.25, "features": 1.0}
"""Weights of the groups, before they are scaled to the sum 1. Regions detect fewer anomalies."""
TYPICAL = math.log(2)  # the median of -ln p of images that are like those to which a group was fitted, in nats


def weights(kinds: Sequence[EvidenceKind], held_out: HeldOutSurprises | None = None) -> Array:
    """Return the weights of the groups, whose sum is 1; ``held_out`` surprises are used where they are known."""
    unscaled = np.array([WEIGHTS[kind] for kind in kinds])
    if held_out is not None:
        unscaled = unscaled / held_out.inflation
    shares: Array = unscaled / unscaled.sum()
    return shares


def merge(surprises: Array, shares: Array) -> Array:
    """Return ln Σ_f w_f / p_f (Wilson 2019; Vovk & Wang 2020, r = -1), where weak evidence does not outweigh strong.

    >>> merge(np.array([[3.0, 3.0]]), weights(("whole", "local"))).round(6).tolist()
    [3.0]
    """
    return logsumexp(surprises, shares)


@dataclass(frozen=True)
class HeldOutSurprises:
    """Distributions of each group's -ln p over normal images that it was not fitted to."""

    tails: tuple[Tail, ...]
    inflation: Array  # median surprise over ln 2, its value without overfitting; at least 1

    @classmethod
    def fit(cls, surprises: Array, least: Array) -> Self:
        """Fit the tails to the surprises ``(N, kinds)``; ``least`` has the smallest inflation of each group."""
        medians = np.median(surprises, axis=0)
        return cls(tuple(Tail.fit(column) for column in surprises.T), np.maximum(least, medians / TYPICAL))


@dataclass(frozen=True)
class Statistic:
    """Anomaly statistic T = -ln p in nats, with p merged from those of whole image, regions and features."""

    whole: WholeImageGroup | None  # None for a density of features alone
    local: RegionGroup | None
    features: FeatureGroup | None = None  # None for a density of pixels alone
    held_out: HeldOutSurprises | None = None

    @property
    def kinds(self) -> tuple[EvidenceKind, ...]:
        """The groups in use, in the order of :meth:`group_surprises`."""
        groups: dict[EvidenceKind, object] = {"whole": self.whole, "local": self.local, "features": self.features}
        return tuple(kind for kind, group in groups.items() if group is not None)

    @property
    def weights(self) -> Array:
        """The weights of the groups in the order of :attr:`kinds`; their sum is 1."""
        return weights(self.kinds, self.held_out)

    def names(self, names: Sequence[str]) -> list[str]:
        """Return the names of the columns of :meth:`statistics`; ``names`` are those of the forward pass."""
        shapes = 0 if self.local is None else len(regions(*self.local.shape))
        of_image = [name for name in names if not is_channel_statistic(name)]
        of_channels = [name for name in names if is_channel_statistic(name)]
        return [*of_image, *(f"unevenness-{number}" for number in range(1, shapes + 1)), *of_channels]

    def statistics(self, evidence: Evidence) -> Array:
        """Return complexity, other whole-image statistics, unevenness, then channels, which old calibrations lack."""
        columns = [evidence.whole]
        if self.local is not None:
            columns.append(self.local.unevenness(evidence.cells))
        if evidence.channels is not None:
            columns.append(evidence.channels)
        return np.concatenate(columns, 1)

    def group_surprises(self, evidence: Evidence) -> Array:
        """Return -ln p of each image by each group in :attr:`kinds`, ``(N, kinds)`` in nats."""
        columns = []
        if self.whole is not None:
            columns.append(self.whole.surprise(self.statistics(evidence)))
        if self.local is not None:
            columns.append(self.local.surprise(evidence.cells, evidence.whole[:, 0]))
        if self.features is not None:
            assert evidence.features is not None
            columns.append(self.features.surprise(evidence.features))
        if self.held_out is not None:
            columns = [tail.surprise(column) for tail, column in zip(self.held_out.tails, columns, strict=True)]
        return np.stack(columns, 1)

    def __call__(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic T of each image in nats, ``(N,)``; larger is more anomalous."""
        return merge(self.group_surprises(evidence), self.weights)
