"""The calibration of a model, which turns the scores of an image into a conformal p-value and an anomaly verdict.

A calibration holds statistics that were fitted to reference images, and the anomaly statistics of calibration images.
The p-value of an image is its rank among these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.anomaly_map import of_places
from snf_runtime.anomaly.conformal import (
    Distribution,
    attainable_alpha,
    default_alpha,
    distribution,
    flagged_ranks,
    p_values,
    smallest_p,
    threshold,
)
from snf_runtime.anomaly.explanation import explain
from snf_runtime.anomaly.reasons import VerdictReason, located
from snf_runtime.anomaly.regions import MapRegions, find_regions, find_regions_of_tiles
from snf_runtime.anomaly.statistics.combined import EvidenceKind, Statistic, merge, weights
from snf_runtime.anomaly.statistics.gradient import GradientFamily
from snf_runtime.errors import GradientEvidenceUnavailable
from snf_runtime.images.placement import FilePlacement
from snf_runtime.images.tiles import TilePlan
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.white_level import LEVELS

Array: TypeAlias = NDArray[np.float64]

MAX_STATISTIC = 1e6
"""Upper bound of a reported T in nats: on some images the arithmetic of the statistics overflows."""
MAX_EQUAL = 0.01
"""Largest share of calibration images whose statistic others have too, for ranks that order new images."""


@dataclass(frozen=True)
class Verdict:
    """The anomaly verdict on one image: flagged if its p-value is at most ``alpha``, the requested false-alarm rate.

    The p-value is conformal: (1 + the number of calibration images that are at least as anomalous) / (n + 1), for n
    calibration images.

    Attributes:
        p_value: The conformal p-value.
        score: -log10 of the p-value.
        is_anomaly: Whether the image is flagged.
        alpha: The false-alarm rate of the verdict.
        statistic: T in nats, larger = more anomalous. It still orders images that share the smallest p-value.
        extrapolated: Whether no calibration image was as anomalous.
        smallest_p: The smallest p-value that the calibration can give.
        reasons: What contributed most, the strongest first.
    """

    p_value: float
    score: float
    is_anomaly: bool
    alpha: float
    statistic: float
    extrapolated: bool
    smallest_p: float
    reasons: tuple[VerdictReason, ...]

    def with_regions(self, regions: MapRegions | None) -> Verdict:
        """Return the verdict with the boxes of regions of the anomaly map in its reasons; unchanged for None."""
        if regions is None:
            return self
        return replace(self, reasons=tuple(located(reason, regions.regions) for reason in self.reasons))

    def in_file(self, placement: FilePlacement) -> Verdict:
        """Return the verdict with the boxes of its reasons in pixels of the upright file."""
        return replace(self, reasons=tuple(reason.in_file(placement) for reason in self.reasons))


@dataclass(frozen=True)
class GradientCalibration:
    """Fitted data for verdicts that use gradients of the log-likelihood: a density, and scores of normal images.

    ``ordered`` holds the anomaly statistic T of the calibration images, gradients included, sorted, in nats.
    """

    gradients: GradientFamily
    ordered: Array


@dataclass(frozen=True)
class Fold:
    """An anomaly statistic fitted to some normal images, with its sorted values on others to rank new images among.

    ``ordered`` holds the sorted values T of the statistic on the calibration images of this fold, in nats.
    ``thorough`` is the same for evidence with gradients; None where the calibration does not support it.
    ``map_maxima`` holds the sorted largest values of the anomaly maps of these images; None without maps, and in
    calibrations of earlier versions.
    """

    statistic: Statistic
    ordered: Array
    # A name in calibration files: it stays as it is.
    thorough: GradientCalibration | None = None
    map_maxima: Array | None = None

    def families(self, evidence: Evidence) -> Array:
        """Return -ln p of each image by each kind of statistic (whole image, local, gradient), ``(N, kinds)``, in nats.

        The columns are those of :meth:`kinds`.
        """
        surprises = self.statistic.families(evidence)
        if evidence.gradients is None or self.thorough is None:
            return surprises
        gradients = self.thorough.gradients.surprise(evidence.gradients, evidence.whole[:, 0])
        return np.concatenate([surprises, gradients[:, None]], axis=1)

    def values(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic of each image, ``(N,)``: -ln of its mean p-value; larger is more anomalous."""
        return merge(self.families(evidence), self.weights(evidence))

    def kinds(self, evidence: Evidence) -> tuple[EvidenceKind, ...]:
        """Return the names of the groups of statistics used for the evidence; "gradients" is last, if available."""
        with_gradients = evidence.gradients is not None and self.thorough is not None
        return (*self.statistic.kinds, "gradients") if with_gradients else self.statistic.kinds

    def weights(self, evidence: Evidence) -> Array:
        """Return the weights by which the groups of :meth:`kinds` are merged, ``(kinds,)``; the sum is 1."""
        return weights(self.kinds(evidence), self.statistic.held_out)


@dataclass(frozen=True)
class MapReference:
    """Mean and standard deviation of the log-likelihood at each pixel over normal images, ``(H, W)`` each, in nats.

    For a model of tiles they are those at each place over the tiles of normal images, ``(rows, columns)`` each.
    """

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Calibration:
    """Statistics of normal images under one model; new images get p-values and verdicts by comparison with them.

    Attributes:
        folds: One fold where separate images were used for calibration, several in cross-conformal calibration.
        log_likelihoods: Log-likelihoods of the reference images, sorted, in nats.
        pixels: The reference of heat maps; None for a flow without spatial structure.
        fisher: Mean squared gradients of reference images, ``(P,)``, one group of layers after the other.
        white_levels: White levels of the reference images, sorted; None in a calibration made before they were stored.
    """

    folds: tuple[Fold, ...]
    log_likelihoods: Array
    pixels: MapReference | None
    fisher: NDArray[np.float32] | None = None
    white_levels: NDArray[np.uint8] | None = None

    @cached_property
    def white_level_counts(self) -> tuple[int, ...] | None:
        """The number of reference images of each white level, 0 to 255; None where the levels are not stored."""
        if self.white_levels is None:
            return None
        return tuple(np.bincount(self.white_levels, minlength=LEVELS).tolist())

    def ordered(self, gradients: bool = False) -> list[Array]:
        """Return the sorted anomaly statistics of the normal images that new images are ranked among: one array a fold.

        Raises ``GradientEvidenceUnavailable`` where ``gradients`` are asked for, and the calibration has none.
        """
        if not gradients:
            return [fold.ordered for fold in self.folds]
        if self.has_features:
            raise GradientEvidenceUnavailable("a model with features has none")
        ordered = [fold.thorough.ordered for fold in self.folds if fold.thorough is not None]
        if not ordered or len(ordered) < len(self.folds):
            raise GradientEvidenceUnavailable(
                "its calibration was made without gradients, or of too few images for them"
            )
        return ordered

    @cached_property
    def images(self) -> int:
        """The number of normal images that the p-value of a new image is a rank among, over all folds."""
        return sum(map(len, self.ordered()))

    @cached_property
    def ranked(self) -> bool:
        """Whether p-values are ranks within a single fold where at most 1 % of the statistics are duplicates.

        Ranks among several folds, or among many equal values, do not order new images as the calibration is ordered.
        """
        if len(self.folds) > 1:
            return False
        [values] = self.ordered()
        return len(np.unique(values)) >= (1 - MAX_EQUAL) * len(values)

    @property
    def has_gradients(self) -> bool:
        """Whether verdicts can also use log-likelihood gradients: every fold has such statistics of normal images."""
        return all(fold.thorough is not None for fold in self.folds)

    @property
    def has_features(self) -> bool:
        """Whether verdicts use features of a backbone: then these give the anomaly maps."""
        return any(fold.statistic.features is not None for fold in self.folds)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value an image can get without gradient statistics: 1 / (n + 1) for n calibration images."""
        return smallest_p(self.images)

    @property
    def default_alpha(self) -> float:
        """The false-alarm rate that is used if none is requested: 0.01, or ``smallest_p`` where that is larger."""
        return default_alpha(self.smallest_p)

    def distribution(self, bins: int) -> Distribution:
        """Return a histogram of the normal images' anomaly statistic in nats, and thresholds for usual alarm rates."""
        return distribution(self.ordered(), bins, MAX_STATISTIC)

    def check_alpha(self, alpha: float | None, gradients: bool = False) -> float:
        """Return ``alpha``, or for None the default. Raises ``AlphaUnattainable`` below the smallest possible p-value.

        Raises ``GradientEvidenceUnavailable`` where ``gradients`` are asked for, and the calibration has none.
        """
        smallest = smallest_p(sum(map(len, self.ordered(gradients))))
        return attainable_alpha(alpha, smallest)

    @cached_property
    def map_maxima(self) -> Array | None:
        """The largest value of the anomaly map of each calibration image, sorted; None where they are not known.

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
        """Return the threshold of anomaly maps. At most a share ``alpha`` of normal images reach it anywhere.

        It is the smallest value v with (1 + #{i: M_i >= v}) / (n + 1) <= alpha, where M_i is the largest value of the
        map of calibration image i. None where the calibration has no such values, or too few for ``alpha``, and at a
        rate of 1, at which every image is flagged whatever its map.
        """
        maxima = self.map_maxima
        if maxima is None or not 1 <= flagged_ranks(len(maxima), alpha) <= len(maxima):
            return None
        return threshold(maxima, alpha)

    def feature_maps(self, evidence: FeatureEvidence) -> list[Array]:
        """Return the map of each image at its places, ``(rows, columns)`` in nats: the mean over the fits of all folds.

        The largest value of the mean is at most the mean of the largest values, so that several folds do not raise the
        rate of false alarms.
        """
        families = [fold.statistic.features for fold in self.folds]
        maps = [family.maps(evidence) for family in families if family is not None]
        return [np.mean(of_image, axis=0) for of_image in zip(*maps, strict=True)]

    def feature_regions(self, evidence: Evidence, image: tuple[int, int], alpha: float) -> list[MapRegions | None]:
        """Return the regions of the anomaly map of each image; None without features or without a threshold.

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
        """Return the anomaly statistic of N images in nats: for each fold, an array ``(N,)`` by the fit of that fold.

        Values that overflow are infinite.
        """
        return self._merged(self._families(evidence), evidence)

    def _families(self, evidence: Evidence) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return [fold.families(evidence) for fold in self.folds]

    def _merged(self, families: list[Array], evidence: Evidence) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            statistics = [
                merge(surprises, fold.weights(evidence)) for fold, surprises in zip(self.folds, families, strict=True)
            ]
        return [np.where(np.isnan(values), np.inf, values) for values in statistics]

    def typical_statistics(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic of each image in nats, ``(N,)``: the mean over all folds, cut off at 1e6."""
        return _typical(self.statistics(evidence))

    def p_values(self, evidence: Evidence) -> Array:
        """Return the conformal p-value of each image, ``(N,)``: its rank among normal images; small means anomalous."""
        return p_values(self.ordered(evidence.gradients is not None), self.statistics(evidence))

    def judge(
        self, evidence: Evidence, names: Sequence[str], image: tuple[int, int], alpha: float | None = None
    ) -> list[Verdict]:
        """Return for each of N images its p-value, whether it is at most ``alpha``, and up to three reasons in words.

        Evidence with gradients is judged with them.

        Args:
            evidence: The evidence of N images.
            names: The names of the whole-image statistics.
            image: Height and width of the images in pixels; images of several tiles have their own.
            alpha: The false-alarm rate; None for the default.

        Raises:
            AlphaUnattainable: The calibration has too few images for ``alpha``.
            GradientEvidenceUnavailable: The evidence has gradients, and the calibration has none.
        """
        gradients = evidence.gradients is not None
        used = self.check_alpha(alpha, gradients)
        reference = self.ordered(gradients)
        smallest = smallest_p(sum(map(len, reference)))
        if not len(evidence):
            return []
        families = self._families(evidence)
        statistics = self._merged(families, evidence)
        p = p_values(reference, statistics)
        typical = _typical(statistics)
        with np.errstate(over="ignore", invalid="ignore"):
            reasons = explain(self.folds[0], evidence, families[0], names, image)
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
