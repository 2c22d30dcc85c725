"""The calibration of a model, which turns the scores of an image into a conformal p-value and an anomaly verdict.

A calibration holds statistics that were fitted to reference images, and the anomaly statistics of calibration images.
The p-value of an image is its rank among these.
"""

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
    """Part of a calibration: an anomaly statistic fitted to some normal images, and its values on others.

    A new image is ranked among the sorted values of the statistic on the calibration images. Its ranks in all folds
    give its p-value.

    ``ordered`` holds the sorted values T of the statistic on the calibration images of this fold, in nats.
    ``map_maxima`` holds the sorted largest values of the anomaly maps of these images; None without maps, and in
    calibrations of earlier versions.
    """

    statistic: Statistic
    ordered: Array
    map_maxima: Array | None = None


@dataclass(frozen=True)
class MapReference:
    """Mean and standard deviation of the log-likelihood at each pixel over normal images.

    Both are ``(H, W)``, in nats.

    For a model of tiles they are those at each place over the tiles of normal images, ``(rows, columns)`` each.
    """

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Calibration:
    """Statistics of normal images, with which those of new images are compared to find anomalies.

    They belong to one model and give new images their p-values and verdicts.

    Attributes:
        folds: One fold where separate images were used for calibration, several in cross-conformal calibration.
        log_likelihoods: Log-likelihoods of the reference images, sorted, in nats.
        pixels: The reference of heat maps; None for a flow without spatial structure.
        white_levels: White levels of the reference images, sorted; None in a calibration made before they were stored.
        tile_counts: Fewest and most tiles of a calibration image; None without tiles, and in earlier calibrations.
    """

    folds: tuple[Fold, ...]
    log_likelihoods: Array
    pixels: MapReference | None
    white_levels: NDArray[np.uint8] | None = None
    tile_counts: NDArray[np.int64] | None = None

    @cached_property
    def white_level_counts(self) -> tuple[int, ...] | None:
        """The number of reference images at each white level (99 % pixel quantile), 0 to 255; None if not stored."""
        if self.white_levels is None:
            return None
        return tuple(np.bincount(self.white_levels, minlength=LEVELS).tolist())

    def ordered(self) -> list[Array]:
        """Return the sorted anomaly statistics of the calibration images, as one array for each calibration fold.

        New images are ranked among them, which gives their p-values.
        """
        return [fold.ordered for fold in self.folds]

    @cached_property
    def images(self) -> int:
        """The total number of calibration images in all folds (groups into which they are split).

        New images are ranked among them, which gives their p-values.
        """
        return sum(map(len, self.ordered()))

    @cached_property
    def statistic_counts(self) -> tuple[int, ...]:
        """The number of the first fold's calibration images in each cell of their statistic, ``(CELLS,)``.

        Among several folds only these are exchangeable with new images by one and the same fit.
        """
        return tuple(np.bincount(statistic_cells(self.folds[0].ordered), minlength=CELLS).tolist())

    @property
    def has_features(self) -> bool:
        """Whether anomaly verdicts by this calibration use image features from a backbone network.

        The anomaly maps are then computed from these features.
        """
        return any(fold.statistic.features is not None for fold in self.folds)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that a verdict can have: 1 / (n + 1) for n calibration images."""
        return smallest_p(self.images)

    @property
    def default_alpha(self) -> float:
        """The default false-alarm rate: 0.01, or more if the calibration has too few images for that.

        With fewer images it is ``smallest_p``, where that is larger.
        """
        return default_alpha(self.smallest_p)

    def distribution(self, bins: int) -> Distribution:
        """Return a histogram of the anomaly statistics of the calibration images.

        It comes with the thresholds for the usual false-alarm rates that are attainable with so many images. Values are
        in nats, and limited to 1e6.
        """
        return distribution(self.ordered(), bins, MAX_STATISTIC)

    def check_alpha(self, alpha: float | None) -> float:
        """Return the requested or default false-alarm rate; raise ``AlphaUnattainable`` if it is too small.

        None stands for the default rate. A rate must not be below the smallest possible p-value.
        """
        return attainable_alpha(alpha, self.smallest_p)

    @cached_property
    def map_maxima(self) -> Array | None:
        """The sorted maxima of the anomaly maps of the calibration images, one for each image.

        None where they are not known.

        Raises ``ValueError`` if there are not as many as calibration images.
        """
        maxima = [fold.map_maxima for fold in self.folds if fold.map_maxima is not None]
        if len(maxima) < len(self.folds):
            return None
        together = np.sort(np.concatenate(maxima))
        if together.shape != (self.images,):
            raise ValueError(f"expected the maxima of {self.images} anomaly maps, got {together.shape}")
        return together

    def map_threshold(self, alpha: float) -> float | None:
        """Return the anomaly-map value from which a pixel counts as anomalous at a false-alarm rate.

        At most a share ``alpha`` of normal images reach it anywhere in their map.

        It is the smallest value v with (1 + #{i: M_i >= v}) / (n + 1) <= alpha, where M_i is the largest value of the
        map of calibration image i. None where the calibration has no such values, or too few for ``alpha``, and at a
        rate of 1, at which every image is flagged whatever its map.
        """
        maxima = self.map_maxima
        if maxima is None or not 1 <= flagged_ranks(len(maxima), alpha) <= len(maxima):
            return None
        return threshold(maxima, alpha)

    def feature_maps(self, evidence: FeatureEvidence) -> list[Array]:
        """Return a coarse anomaly map of each image, with one value per position of its backbone features.

        A map is the mean over the fits of all folds, ``(rows, columns)`` in nats.

        The largest value of the mean is at most the mean of the largest values, so that several folds do not raise the
        rate of false alarms.
        """
        families = [fold.statistic.features for fold in self.folds]
        maps = [family.maps(evidence) for family in families if family is not None]
        return [np.mean(of_image, axis=0) for of_image in zip(*maps, strict=True)]

    def feature_regions(self, evidence: Evidence, image: tuple[int, int], alpha: float) -> list[MapRegions | None]:
        """Return the anomalous regions of each image, found in the anomaly map of its backbone features.

        An image has None without features, or where the calibration has no threshold for maps.

        Args:
            evidence: The evidence of N images.
            image: Height and width of the images in pixels.
            alpha: The false-alarm rate.
        """
        limit = self.map_threshold(alpha)
        if evidence.features is None or limit is None:
            return [None] * len(evidence)
        maps = self.feature_maps(evidence.features)
        plans = evidence.features.plans or [None] * len(maps)
        return [_regions_of(places, image, plan, limit) for places, plan in zip(maps, plans, strict=True)]

    def statistics(self, evidence: Evidence) -> list[Array]:
        """Return the anomaly statistic of every image by each calibration fold, as one array for each fold.

        Each array is ``(N,)`` in nats, computed by the fit of its fold.

        Values that overflow are infinite.
        """
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
        """Return the typical anomaly statistic of each image: the mean over all calibration folds.

        The shape is ``(N,)``, in nats. Values are limited to 1e6.
        """
        return _typical(self.statistics(evidence))

    def p_values(self, evidence: Evidence) -> Array:
        """Return the conformal p-value of each image; small values are anomalous.

        It is (1 + r) / (n + 1), where r of the n calibration images are at least as anomalous. The shape is ``(N,)``.
        """
        return p_values(self.ordered(), self.statistics(evidence))

    def judge(
        self, evidence: Evidence, names: Sequence[str], image: tuple[int, int], alpha: float | None = None
    ) -> list[Verdict]:
        """Return an anomaly verdict for each image, computed from the image's statistics in ``evidence``.

        A verdict has a p-value, says whether it is at most ``alpha``, and gives up to three reasons in words.

        Args:
            evidence: The evidence of N images.
            names: The names of the whole-image statistics.
            image: Height and width of the images in pixels; images of several tiles have their own.
            alpha: The false-alarm rate; None for the default.

        Raises:
            AlphaUnattainable: The calibration has too few images for ``alpha``.
        """
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
