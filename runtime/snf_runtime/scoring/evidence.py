"""Evidence: statistics of images from their pass through a flow, from which verdicts are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_runtime.images.batch import TilePlan
from snf_runtime.scoring.density import Engine, Latents
from snf_runtime.scoring.layout import FlowLayout, LevelLayout

Array = NDArray[np.float64]
Rows = slice | NDArray[np.bool_] | NDArray[np.intp]


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


@dataclass(frozen=True)
class LevelPass:
    """Results of images at one level of a flow, float64."""

    layout: LevelLayout
    log_det: Array  # image-dependent, by location, (N, H, W) in nats
    prior_log_det: Array  # the same of the prior
    errors: Array  # of learned inverses, (N, layers)
    latent: Array  # whitened, (N, C, H, W), with C = 0 for a level without latents


@dataclass(frozen=True)
class FlowPass:
    """Latents and log-dets in float64 of dequantised images that were run through a flow."""

    frozen: FlowLayout
    pixel_log_slopes: Array  # log|dy/dx| of the pixel transform, nats
    latents: Latents

    def __len__(self) -> int:
        return len(self.pixel_log_slopes)

    @cached_property
    def levels(self) -> list[LevelPass]:
        """The results by level, finest scale first."""
        scales = iter(self.latents.scales)
        return [
            LevelPass(
                level,
                log_det,
                prior_log_det,
                errors,
                np.zeros((len(self), 0, *level.size)) if level.latent_shape is None else next(scales),
            )
            for level, log_det, prior_log_det, errors in zip(
                self.frozen.levels,
                self.latents.log_dets,
                self.latents.prior_log_dets,
                self.latents.reconstruction_errors,
                strict=True,
            )
        ]

    def terms(self) -> Array:
        """Return log-prior and log-det of the pixel transform and the L levels, ``(N, L + 1, 2)`` in nats."""
        terms = np.zeros((len(self), len(self.levels) + 1, 2))
        terms[:, 0, 1] = sums(self.pixel_log_slopes)
        for index, level in enumerate(self.levels, start=1):
            terms[:, index, 0] = sums(level.prior_log_det)
            terms[:, index, 1] = sums(level.log_det) + level.layout.constant_log_det
            if level.latent.size:
                constant = 0.5 * level.latent[0].size * math.log(2 * math.pi)
                terms[:, index, 0] -= 0.5 * sums(np.square(level.latent)) + constant
        return terms

    def additive_map(self) -> Array:
        """Return pixel terms + Σ_l m_l(i / 2^l, j / 2^l) / 4^l + constants / (H W) in nats, which sum to log p."""
        result: Array = self.pixel_log_slopes.sum(1)
        height, width = result.shape[1:]
        for level in self.levels:
            level_map, latent = level.log_det + level.prior_log_det, level.latent
            if latent.size:
                level_map = level_map - 0.5 * np.square(latent).sum(1) - 0.5 * latent.shape[1] * math.log(2 * math.pi)
            rows, columns = height // level_map.shape[1], width // level_map.shape[2]
            result = result + (level_map / (rows * columns)).repeat(rows, 1).repeat(columns, 2)
        constant = sum(level.constant_log_det for level in self.frozen.levels)
        total: Array = result + constant / (height * width)
        return total

    def compared_maps(self) -> Array:
        """Return the additive maps."""
        return self.additive_map()

    def rows(self, chosen: slice) -> FlowPass:
        latents = ([values[chosen] for values in getattr(self.latents, part.name)] for part in fields(Latents))
        return FlowPass(self.frozen, self.pixel_log_slopes[chosen], Latents(*latents))


def run_flow(engine: Engine, frozen: FlowLayout, x: Array) -> FlowPass:
    """Run a flow on dequantised images, float64 ``(N, C, H, W)`` in [0, 256)."""
    y, log_slopes = frozen.pixel_function.map_with_slope(x)
    return FlowPass(frozen, log_slopes, engine.forward(y))


def sums(values: Array) -> Array:
    """Return the sum of each image as one row, so that it does not depend on the number of images."""
    total: Array = np.ascontiguousarray(values).reshape(len(values), -1).sum(1)
    return total


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


COMPLEXITY = "complexity"
PIXEL_TERM = "pixel-term"
ENERGY = "energy"

TINY = 1e-300  # added to arguments of logarithms and to denominators, which may underflow to 0
MAX_CHANNELS = 16
"""Most channels of a level whose energies are statistics: more need more reference images than most users have."""


def radius(latent: Array) -> Array:
    """Return log(||e||² / d) of d latents, about N(0, 2/d) for images from an exact flow."""
    return np.log(_mean(np.square(latent)) + TINY)


def correlation(latent: Array, first: Array, second: Array) -> Array:
    """Return the sum of products of neighbours ``first`` and ``second`` over Σ e²."""
    return sums(first * second) / (sums(np.square(latent)) + TINY)


def horizontal(latent: Array) -> Array:
    """Return Σ e(j) e(j+1) / Σ e² of d latents, about N(0, (W - 1) / (W d)) for images from an exact flow."""
    return correlation(latent, latent[..., 1:], latent[..., :-1])


def vertical(latent: Array) -> Array:
    """Return Σ e(i) e(i+1) / Σ e² of d latents, about N(0, (H - 1) / (H d)) for images from an exact flow."""
    return horizontal(latent.swapaxes(2, 3))


def kurtosis(latent: Array) -> Array:
    """Return mean e⁴ / (mean e²)² - 3 of d latents, about N(0, 24/d) for images from an exact flow."""
    square = np.square(latent)
    return _mean(np.square(square)) / (np.square(_mean(square)) + TINY) - 3


def reconstruction(errors: Array) -> Array:
    """Return the mean log of ||R W x - x||² / ||x||² over layers: a learned R ≈ W⁻¹ fits training images best."""
    result: Array = np.log(errors + TINY).mean(1)
    return result


def _mean(values: Array) -> Array:
    result: Array = sums(values) / values[0].size
    return result


def energies(latent: Array) -> Array:
    """Return ln of the mean square of each channel, about N(0, 2 / (H W)) for images from an exact flow."""
    images, channels = latent.shape[:2]
    # Each channel is one row, so that its sum does not depend on the number of images.
    squares = sums(np.square(latent).reshape(images * channels, -1)).reshape(images, channels)
    result: Array = np.log(squares / latent[0, 0].size + TINY)
    return result


def falling(latent: Array) -> Array:
    """Return Σ e(i, j) e(i+1, j+1) / Σ e² of d latents, about N(0, (H - 1) (W - 1) / (H W d)) under an exact flow."""
    return correlation(latent, latent[..., 1:, 1:], latent[..., :-1, :-1])


def rising(latent: Array) -> Array:
    """Return Σ e(i+1, j) e(i, j+1) / Σ e² of latents, distributed as :func:`falling`."""
    return falling(latent[..., ::-1])


@dataclass(frozen=True)
class LevelStatistic:
    """A statistic of every level that has it, such as ``radius-2``, and what unusual values mean in words."""

    name: str  # without a hyphen
    values: Callable[[LevelPass], Array]  # (N,), or (N, channels) of a statistic by channel
    exists: Callable[[FlowLayout, LevelLayout], bool]
    higher: str  # reason where it is higher than usual; {scale} is the level
    lower: str
    by_channel: bool = False


def _has_latents(_flow: FlowLayout, level: LevelLayout) -> bool:
    return level.latent_shape is not None


def _has_grid(flow: FlowLayout, level: LevelLayout) -> bool:
    return flow.is_spatial and level.latent_shape is not None and min(level.latent_shape[1:]) > 1


def _has_energies(flow: FlowLayout, level: LevelLayout) -> bool:
    # The energy of a single channel is the radius of its level, which is a statistic of the whole image.
    return _has_grid(flow, level) and level.latent_shape is not None and 1 < level.latent_shape[0] <= MAX_CHANNELS


GENERATIONS: tuple[tuple[LevelStatistic, ...], ...] = (
    (
        LevelStatistic(
            "volume",  # -Λ / (D ln 2) in bits/dim: by how much a level of D values with log-det Λ contracts volume
            lambda level: _bits(level.log_det, level.latent[0].size + level.layout.kept * level.log_det[0].size),
            lambda _flow, _level: True,
            "finer structure than usual at scale {scale}",
            "less structure than usual at scale {scale}",
        ),
        LevelStatistic(
            "spread",  # the mean log2 standard deviation of the prior
            lambda level: _bits(level.prior_log_det, level.latent[0].size),
            lambda _flow, level: level.has_prior,
            "details at scale {scale} are harder to predict",
            "details at scale {scale} are easier to predict",
        ),
        LevelStatistic(
            "radius",
            lambda level: radius(level.latent),
            _has_latents,
            "stronger surprises at scale {scale}: noise or foreign texture",
            "too smooth at scale {scale}: blur",
        ),
        LevelStatistic(
            "kurtosis",
            lambda level: kurtosis(level.latent),
            _has_latents,
            "isolated outliers at scale {scale}",
            "unusually even residuals at scale {scale}",
        ),
        LevelStatistic(
            "horizontal",
            lambda level: horizontal(level.latent),
            lambda _flow, level: level.latent_shape is not None and level.latent_shape[2] > 1,
            "repeats along rows at scale {scale}",
            "alternates along rows at scale {scale}",
        ),
        LevelStatistic(
            "vertical",
            lambda level: vertical(level.latent),
            lambda _flow, level: level.latent_shape is not None and level.latent_shape[1] > 1,
            "repeats along columns at scale {scale}",
            "alternates along columns at scale {scale}",
        ),
        LevelStatistic(
            "reconstruction",
            lambda level: reconstruction(level.errors),
            lambda _flow, level: bool(level.reconstruction_sizes),
            "channels combine unusually at scale {scale}",
            "channels combine more simply at scale {scale}",
        ),
    ),
    (
        LevelStatistic(
            ENERGY,
            lambda level: energies(level.latent),
            _has_energies,
            "details at scale {scale} in some colours or directions are stronger than usual",
            "details at scale {scale} in some colours or directions are weaker than usual: blur or rescaling",
            by_channel=True,
        ),
        LevelStatistic(
            "falling",
            lambda level: falling(level.latent),
            _has_grid,
            "repeats along falling diagonals at scale {scale}",
            "alternates along falling diagonals at scale {scale}",
        ),
        LevelStatistic(
            "rising",
            lambda level: rising(level.latent),
            _has_grid,
            "repeats along rising diagonals at scale {scale}",
            "alternates along rising diagonals at scale {scale}",
        ),
    ),
)
"""All statistics of levels in the order of their columns: by generation, level and place in the generation. Stored
calibrations have numbers of columns, so new statistics are a further generation, at the end."""
WHOLE, LATER = GENERATIONS[:1], GENERATIONS[1:]
"""Statistics of the whole image, and those that came later: of channels and diagonals."""


def _bits(log_det: Array, dimensions: int) -> Array:
    return -sums(log_det) / (dimensions * math.log(2))


def _names(frozen: FlowLayout, generations: Sequence[Sequence[LevelStatistic]]) -> Iterable[str]:
    for generation in generations:
        for number, level in enumerate(frozen.levels, start=1):
            for kind in generation:
                if kind.exists(frozen, level):
                    channels = level.latent_shape[0] if kind.by_channel and level.latent_shape is not None else 0
                    endings = [f"-{channel}" for channel in range(1, channels + 1)] or [""]
                    yield from (f"{kind.name}-{number}{ending}" for ending in endings)


def _columns(flow_pass: FlowPass, generations: Sequence[Sequence[LevelStatistic]]) -> list[Array]:
    return [
        kind.values(level).reshape(len(flow_pass), -1)
        for generation in generations
        for level in flow_pass.levels
        for kind in generation
        if kind.exists(flow_pass.frozen, level.layout)
    ]


def statistic_names(frozen: FlowLayout) -> tuple[str, ...]:
    """Return names such as ``radius-2`` (level 2), in the order of :func:`whole_image_statistics`."""
    return COMPLEXITY, PIXEL_TERM, *_names(frozen, WHOLE)


def whole_image_statistics(images: NDArray[np.uint8], flow_pass: FlowPass) -> Array:
    """Return the statistics of :func:`statistic_names`, float64 ``(N, K)``."""
    pixel_term = _bits(flow_pass.pixel_log_slopes, images[0].size)
    return np.concatenate([np.stack([residual_entropy(images), pixel_term], 1), *_columns(flow_pass, WHOLE)], 1)


def channel_statistic_names(frozen: FlowLayout) -> tuple[str, ...]:
    """Return names such as ``energy-1-3`` (level, channel); none for a flow that mixes all pixels."""
    return tuple(_names(frozen, LATER))


def channel_statistics(flow_pass: FlowPass) -> Array:
    """Return the statistics of :func:`channel_statistic_names`, float64 ``(N, M)``."""
    return np.concatenate([np.zeros((len(flow_pass), 0)), *_columns(flow_pass, LATER)], 1)


_LATER_NAMES = {kind.name for generation in LATER for kind in generation}


def is_channel_statistic(name: str) -> bool:
    return name.partition("-")[0] in _LATER_NAMES


MAX_CELLS = 16  # largest number of cells along the longer side, so that the covariance of all cells can be estimated
SQUARES = (2, 4, 6)  # side lengths of square regions, in cells


@dataclass(frozen=True)
class Region:
    """A rectangle of grid cells over an image: rows ``top`` to ``bottom - 1``, columns ``left`` to ``right - 1``."""

    top: int
    bottom: int
    left: int
    right: int

    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left


def cell_side(height: int, width: int) -> int:
    """Return the side of a cell in pixels: a sixteenth of the longer side of the image, rounded up.

    >>> cell_side(28, 28), cell_side(32, 32), cell_side(64, 64)
    (2, 2, 4)
    """
    return math.ceil(max(height, width) / MAX_CELLS)


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of cells over an image, at most 16 each."""
    side = cell_side(height, width)
    return math.ceil(height / side), math.ceil(width / side)


def pool(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum maps over cells, ``(N, H, W) -> (N, cells)``."""
    height, width = maps.shape[1:]
    side = cell_side(height, width)
    rows = np.add.reduceat(maps, np.arange(0, height, side), axis=1)
    cells: NDArray[np.float64] = np.add.reduceat(rows, np.arange(0, width, side), axis=2)
    return cells.reshape(len(maps), -1)


@lru_cache(maxsize=64)
def regions(rows: int, columns: int) -> list[list[Region]]:
    """Return the squares of each size smaller than the grid, then full rows and columns, which are never empty."""
    shapes = [
        [
            Region(top, top + side, left, left + side)
            for top in range(rows - side + 1)
            for left in range(columns - side + 1)
        ]
        for side in SQUARES
        if side < min(rows, columns)
    ]
    lines = [Region(row, row + 1, 0, columns) for row in range(rows)]
    lines += [Region(0, rows, column, column + 1) for column in range(columns)]
    return [*shapes, lines]


def members(of_one_shape: Sequence[Region], columns: int) -> NDArray[np.intp]:
    """Return the flat indices of each region's cells, ``(regions, cells)``, in a grid flattened by rows."""
    height, width = of_one_shape[0].shape()
    corners = np.array([region.top * columns + region.left for region in of_one_shape], np.intp)
    cells: NDArray[np.intp] = corners[:, None, None] + np.arange(height)[:, None] * columns + np.arange(width)
    return cells.reshape(len(of_one_shape), -1)


QUANTILE = 0.99
SMALL = 2**14
"""Most values of an image that are sorted. Those of larger ones are counted by levels, in a tenth of the time."""
AT_ONCE = 2**22
"""Most values that are counted at once, because they are copied where an image is not stored channel by channel."""


def white_levels(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the smallest level that 99 % of an image's values do not exceed: it varies less than means do.

    >>> white_levels([np.arange(100, dtype=np.uint8).reshape(1, 10, 10)]).tolist()
    [98]
    """
    return np.array([_white_level(image) for image in images], dtype=np.uint8)


def _white_level(image: NDArray[np.uint8]) -> np.uint8:
    place = int(np.ceil(QUANTILE * image.size)) - 1
    if image.size <= SMALL:
        level: np.uint8 = np.partition(image, place, axis=None)[place]
        return level
    channels, height, width = image.shape
    rows = max(1, AT_ONCE // (channels * width))
    counts = np.zeros(LEVELS, dtype=np.int64)
    for top in range(0, height, rows):
        counts += Image.fromarray(image[:, top : top + rows].reshape(-1, width)).histogram()
    return np.uint8(np.searchsorted(np.cumsum(counts), place, side="right"))


@dataclass(frozen=True)
class FeatureEvidence:
    """Negative log-densities of features up to constants, under several fits, for the T tiles of all images in turn."""

    places: NDArray[np.floating]  # (T, fits, rows, columns) in nats
    pooled: NDArray[np.floating]  # (T, fits, groups) in nats
    plans: tuple[TilePlan, ...] | None = None  # None where every image is one tile

    def __len__(self) -> int:
        return len(self.places) if self.plans is None else len(self.plans)

    def __getitem__(self, rows: Rows) -> FeatureEvidence:
        if self.plans is None:
            return FeatureEvidence(self.places[rows], self.pooled[rows])
        numbers = np.arange(len(self))[rows].tolist()
        tiles = [np.arange(start, stop) for start, stop in (self.tiles[number] for number in numbers)]
        every = np.concatenate([np.zeros(0, dtype=np.intp), *tiles])
        return FeatureEvidence(self.places[every], self.pooled[every], tuple(self.plans[number] for number in numbers))

    @classmethod
    def join(cls, parts: Sequence[FeatureEvidence]) -> FeatureEvidence:
        plans = [plan for part in parts if part.plans is not None for plan in part.plans]
        return cls(
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.pooled for part in parts]),
            None if parts[0].plans is None else tuple(plans),
        )

    @cached_property
    def tiles(self) -> list[tuple[int, int]]:
        """The range ``(start, stop)`` of each image's tiles among all."""
        counts = [1] * len(self.places) if self.plans is None else [len(plan) for plan in self.plans]
        ends = list(accumulate(counts))
        return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + self.pooled.nbytes

    @property
    def fits(self) -> int:
        """The number of fits: the first is to all training images, each other one leaves a fold out."""
        return int(self.places.shape[1])


@dataclass(frozen=True)
class ImageArrays:
    """Arrays with a row for each of the same images, or None."""

    def __getitem__(self, rows: Rows) -> Self:
        return type(self)(*(None if values is None else values[rows] for values in self._columns()))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows; what not all parts have is None."""
        return cls(*map(_joined, zip(*(part._columns() for part in parts), strict=True)))

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self._columns() if values is not None)

    def _columns(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Evidence(ImageArrays):
    """Statistics of images from which verdicts are computed, a row for each image."""

    whole: Array  # (N, K); K is 0 for a density of features alone
    cells: Array  # log-likelihoods, (N, cells) in nats
    features: FeatureEvidence | None = None
    white_levels: NDArray[np.uint8] | None = None  # (N,); not part of the anomaly statistic
    channels: Array | None = None  # of latents, (N, M)

    def __len__(self) -> int:
        return len(self.whole)


def _joined(parts: Sequence[Any]) -> Any:
    if any(part is None for part in parts):
        return None
    return FeatureEvidence.join(parts) if isinstance(parts[0], FeatureEvidence) else np.concatenate(parts)
