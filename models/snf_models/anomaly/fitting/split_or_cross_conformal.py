"""Fit of a calibration to the statistics of reference images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_models.anomaly.fitting.statistic_densities import fit_statistic
from snf_runtime.anomaly.anomaly_map import of_pixels, of_places
from snf_runtime.anomaly.calibration import Calibration, Fold, MapReference
from snf_runtime.anomaly.pixel_contributions import standardise
from snf_runtime.anomaly.statistics.combined import Statistic
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceEvidence:
    """Statistics and log-likelihoods of n normal images, and sums of their log-likelihood maps."""

    evidence: Evidence
    log_likelihoods: Array
    map_sum: Array | None  # over images, (H, W), or over tiles, (rows, columns)
    map_squares: Array | None
    image: tuple[int, int] | None = None  # height and width, where maps come from features
    map_maxima: Array | None = None  # where the pixels' reference was known before
    maps: NDArray[np.float32] | None = None  # (n, H, W) in nats, where it was not
    summed: int | None = None  # maps in map_sum; None: one of each image

    def pixels(self) -> MapReference | None:
        """Return mean and deviation, with the smallest raised, at each pixel or place of a tile; None without maps."""
        if self.map_sum is None or self.map_squares is None:
            return None
        return _map_reference(
            self.map_sum, self.map_squares, len(self.evidence) if self.summed is None else self.summed
        )

    def maxima_of(self, inside: NDArray[np.bool_], fold: NDArray[np.bool_], statistic: Statistic) -> Array | None:
        """Return the map maxima of images ``inside``, standardised by those outside their ``fold`` unless known."""
        if statistic.features is not None:
            if self.evidence.features is None or self.image is None:
                return None
            chosen = self.evidence.features[inside]
            return _place_maxima(statistic.features.maps(chosen), None if chosen.plans is not None else self.image)
        if self.map_maxima is not None:
            return self.map_maxima[inside]
        if self.maps is None:
            return None
        own, others = (self.maps[chosen].astype(np.float64) for chosen in (inside, ~fold))
        reference = _map_reference(others.sum(0), np.square(others).sum(0), len(others))
        largest: Array = of_pixels(standardise(own, reference)).max((1, 2))
        return largest


def _place_maxima(maps: Sequence[Array], image: tuple[int, int] | None) -> Array:
    """Return the largest value of each map in nats; ``image`` is None for tiles, whose maps are of places."""
    return np.array([(places if image is None else of_places(places, image)).max() for places in maps])


def _map_reference(total: Array, squares: Array, count: int) -> MapReference:
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return MapReference(mean, np.maximum(deviation, max(0.1 * float(np.median(deviation)), 1e-9)))


def fit_split(
    statistics: ReferenceEvidence,
    calibration: ReferenceEvidence,
    names: Sequence[str],
    grid: tuple[int, int] | None,
    suspect_share: float = 0.0,
    ranked: NDArray[np.bool_] | None = None,
) -> Calibration:
    """Fit to one set and rank among another, suspect images included: without them there were more false alarms."""
    everything = np.ones(len(calibration.evidence), dtype=bool)
    ranked = everything if ranked is None else ranked
    fold = _fold(statistics.evidence, calibration, (ranked, everything), names, grid, suspect_share)
    together = np.concatenate([statistics.log_likelihoods, calibration.log_likelihoods])
    levels = _sorted_levels(statistics.evidence, calibration.evidence)
    counts = _tile_counts(calibration.evidence)
    return Calibration((fold,), np.sort(together), statistics.pixels(), white_levels=levels, tile_counts=counts)


def fit_cross(
    reference: ReferenceEvidence,
    folds: NDArray[np.integer],
    names: Sequence[str],
    grid: tuple[int, int] | None,
    suspect_share: float = 0.0,
    unseen: Sequence[FeatureEvidence] | None = None,
    ranked: NDArray[np.bool_] | None = None,
) -> Calibration:
    """Rank each fold by a fit to the others (Vovk 2015); ``unseen`` is feature evidence by fits without the fold."""
    evidence = reference.evidence
    ranked = np.ones(len(evidence), dtype=bool) if ranked is None else ranked
    fitted = []
    for number, fold in enumerate(np.unique(folds)):
        inside = np.asarray(folds == fold)
        if unseen is None:
            fitted_to = evidence[~inside]
        else:
            fitted_to = replace(replace(evidence, features=None)[~inside], features=unseen[number])
        own_fit = 0 if unseen is None else number + 1
        fitted.append(_fold(fitted_to, reference, (inside & ranked, inside), names, grid, suspect_share, own_fit))
    levels = _sorted_levels(evidence)
    return Calibration(
        tuple(fitted),
        np.sort(reference.log_likelihoods),
        reference.pixels(),
        white_levels=levels,
        tile_counts=_tile_counts(evidence),
    )


def _tile_counts(evidence: Evidence) -> NDArray[np.int64] | None:
    """Return the fewest and the most tiles of an image, ``(2,)``; None for a model without tiles."""
    plans = None if evidence.features is None else evidence.features.plans
    return np.array([min(map(len, plans)), max(map(len, plans))]) if plans else None


def _sorted_levels(*parts: Evidence) -> NDArray[np.uint8] | None:
    levels = [part.white_levels for part in parts if part.white_levels is not None]
    return np.sort(np.concatenate(levels)) if len(levels) == len(parts) else None


def _fold(
    fitted_to: Evidence,
    reference: ReferenceEvidence,
    rows: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    names: Sequence[str],
    grid: tuple[int, int] | None,
    suspect_share: float,
    feature_fit: int = 0,
) -> Fold:
    """Return a fold; ``rows`` are its images that give a rank, and all; ``suspect_share`` concerns the fit only."""
    statistic = fit_statistic(fitted_to, names, grid)
    if suspect_share:
        statistic = fit_statistic(fitted_to[_usual(statistic(fitted_to), suspect_share)], names, grid)
    if statistic.features is not None:
        statistic = replace(statistic, features=statistic.features.for_fit(feature_fit))
    maxima = reference.maxima_of(*rows, statistic)
    return Fold(
        statistic,
        np.sort(statistic(reference.evidence[rows[0]])),
        map_maxima=None if maxima is None else np.sort(maxima),
    )


def _usual(values: Array, suspect_share: float) -> NDArray[np.intp]:
    """Return the indices of all but the share of the most anomalous images."""
    count = max(1, len(values) - round(suspect_share * len(values)))
    return np.sort(np.argsort(values, kind="stable")[:count])
