"""The calibration of a model: conformal p-values and verdicts by its statistics of normal images."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snf_runtime.anomaly.maps import MapReference, MapRegions, find_regions, find_regions_of_tiles, of_places
from snf_runtime.anomaly.statistics import Statistic, merge
from snf_runtime.anomaly.verdict import Verdict, explain
from snf_runtime.errors import AlphaUnattainable
from snf_runtime.images.batch import TilePlan
from snf_runtime.scoring.evidence import LEVELS, Evidence, FeatureEvidence

Array = NDArray[np.float64]

DEFAULT_ALPHA = 0.01
USUAL_ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
DIGITS = 6  # decimals of a statistic in nats that do not depend on the size of the batch
MAX_STATISTIC = 1e6  # upper bound of a reported T in nats: on some images the arithmetic of the statistics overflows
CELLS = 1024  # cells in which statistics are counted for tests of drift, of equal width in ln(1 + T)


def p_values(reference: Sequence[Array], statistics: Sequence[Array]) -> Array:
    """Return (1 + #{i: T_i >= T}) / (n + 1) of each image, with T rounded to a millionth of a nat, so that ties tie."""
    # One fold: P(p <= alpha) <= alpha (Vovk et al. 2005, ch. 2). K folds: close to that in practice, and at most
    # 2 alpha + 2 (1 - alpha) (K - 1) / (n + K) (Vovk 2015; Barber et al. 2021).
    at_least = [
        len(ordered) - np.searchsorted(np.round(ordered, DIGITS), np.round(values, DIGITS), side="left")
        for ordered, values in zip(reference, statistics, strict=True)
    ]
    total = sum(len(ordered) for ordered in reference)
    result: Array = (1 + np.sum(at_least, axis=0)) / (total + 1)
    return result


def statistic_cells(statistics: ArrayLike) -> NDArray[np.int64]:
    """Return the cell of each anomaly statistic T in nats, ``(m,)``; cell 0 has the largest."""
    heights = np.log1p(np.clip(statistics, 0, MAX_STATISTIC)) * (CELLS / math.log1p(MAX_STATISTIC))
    cells: NDArray[np.int64] = np.maximum(CELLS - 1 - heights.astype(np.int64), 0)
    return cells


def smallest_p(images: int) -> float:
    """Return 1 / (n + 1), the smallest p-value that n calibration images can give."""
    return 1 / (images + 1)


def default_alpha(smallest: float) -> float:
    """Return the default false-alarm rate, 0.01, or the smallest possible p-value where that is larger."""
    return max(DEFAULT_ALPHA, smallest)


def attainable_alpha(alpha: float | None, smallest: float) -> float:
    """Return the false-alarm rate, None for the default; raise ``AlphaUnattainable`` if it is below ``smallest``."""
    if alpha is None:
        return default_alpha(smallest)
    if alpha < smallest:
        raise AlphaUnattainable(alpha, smallest)
    return alpha


def flagged_ranks(calibration: int, alpha: float) -> int:
    """Return k = floor(alpha (n + 1)): an image is flagged if fewer than k of n images are at least as anomalous."""
    # p is a ratio of integers: the comparison must not depend on the rounding of alpha * (n + 1).
    middle = math.floor(alpha * (calibration + 1))
    return max(k for k in (0, middle - 1, middle, middle + 1) if k / (calibration + 1) <= alpha)


ALPHAS = tuple(float(f"{digits}e-{power}") for power in (1, 2, 3, 4) for digits in (3, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.4))
"""From 0.3 down to 0.00004, dense enough to interpolate between them."""
TAIL = 0.999
"""Share of the images in bins of equal width. T has a heavy tail: with all of it, most images fall in one bin."""


@dataclass(frozen=True)
class Distribution:
    """Histogram of the anomaly statistic of normal images in nats, with the thresholds of attainable rates."""

    edges: Array
    counts: NDArray[np.int64]
    quantiles: dict[float, float]  # smallest flagged T for each alpha


def distribution(reference: Sequence[Array], bins: int, largest: float) -> Distribution:
    """Return a histogram up to the 99.9 % quantile, whose last bin goes on to the largest T, and the thresholds."""
    values = np.minimum(np.sort(np.concatenate(reference)), largest)
    edges = _edges(values, bins)
    counts = np.histogram(values, edges)[0]
    reachable = [alpha for alpha in ALPHAS if alpha >= smallest_p(len(values))]
    return Distribution(edges, counts, {alpha: threshold(values, alpha) for alpha in reachable})


def threshold(ordered: Array, alpha: float) -> float:
    """Return the smallest flagged T in nats: a millionth more than the last T that is not flagged at ``alpha``."""
    count = flagged_ranks(len(ordered), alpha)
    if not 1 <= count <= len(ordered):
        raise ValueError(f"expected a false-alarm rate from 1/{len(ordered) + 1} to below 1, got {alpha}")
    last = float(ordered[len(ordered) - count])
    return round(round(last, DIGITS) + 10.0**-DIGITS, DIGITS)


def _edges(values: Array, bins: int) -> Array:
    smallest, largest = float(values[0]), float(values[-1])
    tail = float(np.quantile(values, TAIL, method="lower"))
    if smallest == largest:
        return np.linspace(smallest - 0.5, largest + 0.5, bins + 1)
    if not smallest < tail < largest:
        return np.linspace(smallest, largest, bins + 1)
    return np.append(np.linspace(smallest, tail, bins), largest)


Arrays = Mapping[str, NDArray[Any]]
Part = TypeVar("Part")


def to_arrays(part: object, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Flatten nested dataclasses and tuples of arrays, with None, into a dict with keys such as ``folds.0.ordered``."""
    if isinstance(part, np.ndarray):
        return {prefix: np.asarray(part, order="C")}
    if isinstance(part, tuple):
        named: dict[str, object] = {str(index): item for index, item in enumerate(part)}
    elif is_dataclass(part):
        named = {field.name: getattr(part, field.name) for field in fields(part)}
    else:
        raise TypeError(f"{prefix or 'it'} is neither an array nor a dataclass: {type(part).__name__}")
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in named.items():
        if value is not None:
            arrays |= to_arrays(value, f"{prefix}.{name}" if prefix else name)
    return arrays


def from_arrays(kind: type[Part], arrays: Arrays, prefix: str = "") -> Part:
    """Rebuild a nested dataclass, the inverse of :func:`to_arrays`; ``KeyError`` names a missing array."""
    hints = get_type_hints(kind)
    values = {
        field.name: _value(hints[field.name], arrays, f"{prefix}.{field.name}" if prefix else field.name)
        for field in fields(cast(Any, kind))
    }
    return kind(**values)


def _value(hint: Any, arrays: Arrays, name: str) -> Any:
    options = get_args(hint)
    if get_origin(hint) in (types.UnionType,):
        there = any(key == name or key.startswith(f"{name}.") for key in arrays)
        return _value(options[0], arrays, name) if there else None
    if get_origin(hint) is tuple:
        kinds = options
        if options[-1] is Ellipsis:  # of any length
            count = len({key[len(name) + 1 :].split(".")[0] for key in arrays if key.startswith(f"{name}.")})
            kinds = options[:1] * count
        return tuple(_value(kind, arrays, f"{name}.{index}") for index, kind in enumerate(kinds))
    if isinstance(hint, type) and is_dataclass(hint):
        return from_arrays(hint, arrays, name)
    return arrays[name]


@dataclass(frozen=True)
class Fold:
    """Part of a calibration: an anomaly statistic fitted to some normal images, and its sorted values on others."""

    statistic: Statistic
    ordered: Array  # T of the calibration images, nats
    map_maxima: Array | None = None  # largest values of their anomaly maps


@dataclass(frozen=True)
class Calibration:
    """Statistics of normal images, by which new images of one model get their p-values and verdicts."""

    folds: tuple[Fold, ...]
    log_likelihoods: Array  # of the reference images, sorted, nats
    pixels: MapReference | None  # None for a flow without spatial structure
    white_levels: NDArray[np.uint8] | None = None
    tile_counts: NDArray[np.int64] | None = None  # fewest and most of a calibration image

    @cached_property
    def white_level_counts(self) -> tuple[int, ...] | None:
        """The number of reference images at each white level (99 % pixel quantile), 0 to 255; None if not stored."""
        if self.white_levels is None:
            return None
        return tuple(np.bincount(self.white_levels, minlength=LEVELS).tolist())

    def ordered(self) -> list[Array]:
        """Return the sorted anomaly statistics of the calibration images of each fold."""
        return [fold.ordered for fold in self.folds]

    @cached_property
    def images(self) -> int:
        """The number of calibration images of all folds."""
        return sum(map(len, self.ordered()))

    @cached_property
    def statistic_counts(self) -> tuple[int, ...]:
        """Images of the first fold by cell of their statistic: only these are exchangeable with new ones by one fit."""
        return tuple(np.bincount(statistic_cells(self.folds[0].ordered), minlength=CELLS).tolist())

    @property
    def has_features(self) -> bool:
        """Whether verdicts and anomaly maps use features of a backbone."""
        return any(fold.statistic.features is not None for fold in self.folds)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that a verdict can have: 1 / (n + 1) for n calibration images."""
        return smallest_p(self.images)

    @property
    def default_alpha(self) -> float:
        """The default false-alarm rate: 0.01, or ``smallest_p`` where that is larger."""
        return default_alpha(self.smallest_p)

    def distribution(self, bins: int) -> Distribution:
        """Return a histogram of the calibration images' statistics and the thresholds of attainable rates, nats."""
        return distribution(self.ordered(), bins, MAX_STATISTIC)

    def check_alpha(self, alpha: float | None) -> float:
        """Return the false-alarm rate, None for the default; raise ``AlphaUnattainable`` if it is too small."""
        return attainable_alpha(alpha, self.smallest_p)

    @cached_property
    def map_maxima(self) -> Array | None:
        """The sorted maxima of the calibration images' anomaly maps, if known; ``ValueError`` if some are missing."""
        maxima = [fold.map_maxima for fold in self.folds if fold.map_maxima is not None]
        if len(maxima) < len(self.folds):
            return None
        together = np.sort(np.concatenate(maxima))
        if together.shape != (self.images,):
            raise ValueError(f"expected the maxima of {self.images} anomaly maps, got {together.shape}")
        return together

    def map_threshold(self, alpha: float) -> float | None:
        """Return the smallest v with (1 + #{i: M_i >= v}) / (n + 1) <= alpha for map maxima M_i, if there is one."""
        maxima = self.map_maxima
        if maxima is None or not 1 <= flagged_ranks(len(maxima), alpha) <= len(maxima):
            return None
        return threshold(maxima, alpha)

    def feature_maps(self, evidence: FeatureEvidence) -> list[Array]:
        """Return each image's coarse map in nats, a mean over folds, which raises no rate of false alarms."""
        groups = [fold.statistic.features for fold in self.folds]
        maps = [group.maps(evidence) for group in groups if group is not None]
        return [np.mean(of_image, axis=0) for of_image in zip(*maps, strict=True)]

    def feature_regions(self, evidence: Evidence, image: tuple[int, int], alpha: float) -> list[MapRegions | None]:
        """Return the regions in each image's feature map; None without features or without a threshold at ``alpha``."""
        limit = self.map_threshold(alpha)
        if evidence.features is None or limit is None:
            return [None] * len(evidence)
        maps = self.feature_maps(evidence.features)
        plans = evidence.features.plans or [None] * len(maps)
        return [_regions_of(places, image, plan, limit) for places, plan in zip(maps, plans, strict=True)]

    def statistics(self, evidence: Evidence) -> list[Array]:
        """Return the anomaly statistic of every image by the fit of each fold, in nats; overflow gives infinity."""
        return self._merged(self._group_surprises(evidence))

    def _group_surprises(self, evidence: Evidence) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return [fold.statistic.group_surprises(evidence) for fold in self.folds]

    def _merged(self, groups: list[Array]) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            statistics = [
                merge(surprises, fold.statistic.weights) for fold, surprises in zip(self.folds, groups, strict=True)
            ]
        return [np.where(np.isnan(values), np.inf, values) for values in statistics]

    def typical_statistics(self, evidence: Evidence) -> Array:
        """Return the mean of each image's statistic over all folds, in nats, at most 1e6."""
        return _typical(self.statistics(evidence))

    def p_values(self, evidence: Evidence) -> Array:
        """Return the conformal p-value of each image; small values are anomalous."""
        return p_values(self.ordered(), self.statistics(evidence))

    def judge(
        self, evidence: Evidence, names: Sequence[str], image: tuple[int, int], alpha: float | None = None
    ) -> list[Verdict]:
        """Return the verdict on each image; raise ``AlphaUnattainable`` if ``alpha`` (None: default) is too small."""
        used, smallest = self.check_alpha(alpha), self.smallest_p
        if not len(evidence):
            return []
        groups = self._group_surprises(evidence)
        statistics = self._merged(groups)
        p = p_values(self.ordered(), statistics)
        typical = _typical(statistics)
        with np.errstate(over="ignore", invalid="ignore"):
            reasons = explain(self.folds[0].statistic, evidence, groups[0], names, image)
        regions = self.feature_regions(evidence, image, used)
        return [
            Verdict(
                float(p[i]),
                abs(math.log10(p[i])),
                bool(p[i] <= used),
                used,
                float(typical[i]),
                bool(p[i] <= smallest),
                smallest,
                reasons[i],
                float(statistics[0][i]),
            ).with_regions(regions[i])
            for i in range(len(p))
        ]


def _typical(statistics: list[Array]) -> Array:
    typical: Array = np.minimum(np.mean(statistics, axis=0), MAX_STATISTIC)
    return typical


def _regions_of(places: Array, image: tuple[int, int], plan: TilePlan | None, limit: float) -> MapRegions:
    """Return the regions of an image from the values at its places; ``plan`` is that of an image of several tiles."""
    # No pixel exceeds the largest place, so that most images need no map of their pixels.
    if places.max() < limit:
        return MapRegions(limit, (), 0)
    if plan is None:
        return find_regions(of_places(places, image), limit)
    return find_regions_of_tiles(places, plan, limit)
