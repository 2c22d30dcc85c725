"""The calibration of a model, which turns the scores of an image into a conformal p-value and an anomaly verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.anomaly_map import of_places
from snf_runtime.anomaly.conformal import (
    CELLS,
    MAX_STATISTIC,
    Distribution,
    attainable_alpha,
    default_alpha,
    distribution,
    flagged_ranks,
    p_values,
    smallest_p,
    statistic_cells,
    threshold,
)
from snf_runtime.anomaly.find_reasons import explain
from snf_runtime.anomaly.regions import MapRegions, find_regions, find_regions_of_tiles
from snf_runtime.anomaly.statistics.combined import Statistic, merge
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.images.tiles import TilePlan
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.white_level import LEVELS

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """Part of a calibration: an anomaly statistic fitted to some normal images, and its sorted values on others."""

    statistic: Statistic
    ordered: Array  # T of the calibration images, nats
    map_maxima: Array | None = None  # largest values of their anomaly maps


@dataclass(frozen=True)
class MapReference:
    """Mean and deviation of the log-likelihood over normal images at each pixel, or place of a tile, in nats."""

    mean: Array
    deviation: Array


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
        families = [fold.statistic.features for fold in self.folds]
        maps = [family.maps(evidence) for family in families if family is not None]
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
        return self._merged(self._families(evidence))

    def _families(self, evidence: Evidence) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return [fold.statistic.families(evidence) for fold in self.folds]

    def _merged(self, families: list[Array]) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            statistics = [
                merge(surprises, fold.statistic.weights) for fold, surprises in zip(self.folds, families, strict=True)
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
        families = self._families(evidence)
        statistics = self._merged(families)
        p = p_values(self.ordered(), statistics)
        typical = _typical(statistics)
        with np.errstate(over="ignore", invalid="ignore"):
            reasons = explain(self.folds[0].statistic, evidence, families[0], names, image)
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
