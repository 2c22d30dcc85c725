"""Calibration of a trained model on normal images, so that new images can get p-values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.calibrations import Deviation
from snf_models.anomaly.reference_images import (
    ImageRows,
    ReferenceImages,
    first_copies,
    folds_digest,
    one_fold_for_copies,
)
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.artifacts.manifest import CalibrationSummary, Precision
from snf_models.errors import DatasetUnfit, ScoreNotFinite
from snf_runtime.anomaly.calibration import Calibration, Fold
from snf_runtime.anomaly.maps import MapReference, of_pixels, of_places, standardise
from snf_runtime.anomaly.statistics import Statistic
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import Evidence, FeatureEvidence
from snf_runtime.scoring.feature_density import parts_of
from snf_runtime.scoring.likelihood import score_images

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
        return _map_reference(self.map_sum, self.map_squares, self.summed or len(self.evidence))

    def maxima_of(self, inside: NDArray[np.bool_], fold: NDArray[np.bool_], statistic: Statistic) -> Array | None:
        """Return the map maxima of images ``inside``, standardised by those outside their ``fold`` unless known."""
        if statistic.features is not None:
            if self.evidence.features is None or self.image is None:
                return None
            chosen = self.evidence.features[inside]
            maps = statistic.features.maps(chosen)
            if chosen.plans is None:  # maps of tiles stay those of places
                maps = [of_places(places, self.image) for places in maps]
            return np.array([of_image.max() for of_image in maps])
        if self.map_maxima is not None:
            return self.map_maxima[inside]
        if self.maps is None:
            return None
        own, others = (self.maps[chosen].astype(np.float64) for chosen in (inside, ~fold))
        reference = _map_reference(others.sum(0), np.square(others).sum(0), len(others))
        largest: Array = of_pixels(standardise(own, reference)).max((1, 2))
        return largest


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
    return _calibration([fold], statistics, calibration)


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
    return _calibration(fitted, reference)


def _calibration(folds: Sequence[Fold], *parts: ReferenceEvidence) -> Calibration:
    """Return the calibration; maps are compared with those of the first of ``parts``, the last one gives the ranks."""
    levels = [part.evidence.white_levels for part in parts if part.evidence.white_levels is not None]
    features = parts[-1].evidence.features
    plans = None if features is None else features.plans
    return Calibration(
        tuple(folds),
        np.sort(np.concatenate([part.log_likelihoods for part in parts])),
        parts[0].pixels(),
        white_levels=np.sort(np.concatenate(levels)) if len(levels) == len(parts) else None,
        tile_counts=np.array([min(map(len, plans)), max(map(len, plans))]) if plans else None,
    )


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
        features = replace(statistic.features, fit_number=np.array([feature_fit], dtype=np.int64))
        statistic = replace(statistic, features=features)
    maxima = reference.maxima_of(*rows, statistic)
    return Fold(
        statistic,
        np.sort(statistic(reference.evidence[rows[0]])),
        map_maxima=None if maxima is None else np.sort(maxima),
    )


def _usual(values: Array, suspect_share: float) -> NDArray[np.intp]:
    count = max(1, len(values) - round(suspect_share * len(values)))
    return np.sort(np.argsort(values, kind="stable")[:count])


BATCH_IMAGES, BATCH_PIXELS = 512, 2**21
"""Images and pixels of a batch: a dataset may be larger than the memory, and work can be stopped between batches."""


def collect_evidence(
    density: ImageDensity,
    images: ImageRows,
    progress: Callable[[int], None] = lambda _done: None,
    *,
    standard: MapReference | None = None,
    keep_maps: bool = False,
) -> ReferenceEvidence:
    """Pass images through the model in batches; ``standard`` gives map maxima. May raise ``ScoreNotFinite``."""
    evidence: list[Evidence] = []
    log_likelihoods: list[float] = []
    total: NDArray[np.float64] | None = None
    squares: NDArray[np.float64] | None = None
    summed = 0
    maxima: list[float] = []
    kept: list[NDArray[np.float32]] = []
    at_once = max(1, min(BATCH_IMAGES, BATCH_PIXELS // math.prod(density.image_shape[1:])))
    for begin in range(0, len(images), at_once):
        batch = images[begin : begin + at_once]
        for start, density_pass in density.passes(batch):
            if density_pass is None:
                progress(len(log_likelihoods))
                continue
            maps = density_pass.compared_maps()
            total = maps.sum(0) if total is None else total + maps.sum(0)
            squares = np.square(maps).sum(0) if squares is None else squares + np.square(maps).sum(0)
            summed += len(maps)
            if standard is not None:
                maxima += of_pixels(standardise(maps, standard)).max((1, 2)).tolist()
            if keep_maps:
                kept.append(maps.astype(np.float32))
            log_likelihoods += density_pass.terms().sum((1, 2)).tolist()
            evidence.append(density.evidence(batch[start : start + len(density_pass)], density_pass))
        progress(len(log_likelihoods))
    values = np.array(log_likelihoods)
    if not np.isfinite(values).all():
        raise ScoreNotFinite(f"the flow's arithmetic overflowed on image {int(np.argmin(np.isfinite(values)))}")
    if not density.has_map:
        total = squares = None
    return ReferenceEvidence(
        Evidence.join(evidence),
        values,
        total,
        squares,
        image=density.image_shape[1:],
        map_maxima=None if standard is None else np.array(maxima),
        maps=np.concatenate(kept) if kept else None,
        summed=summed,
    )


Progress = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the images done, and the images in the part."""


def count_image_passes(reference: ReferenceImages, precision: Precision = "float32") -> int:
    """Return the number of image passes through the flow in a calibration, the total of its progress reports."""
    statistics, calibration = len(reference.statistics), len(reference.calibration)
    compared = 0 if precision == "float32" else calibration or statistics
    return statistics + calibration + compared


def calibrate(
    density: ImageDensity,
    reference: ReferenceImages,
    pinned: NDArray[np.uint8],
    progress: Progress,
    *,
    precise: ImageDensity | None = None,
    unseen: Sequence[FeatureEvidence] | None = None,
) -> tuple[Calibration, CalibrationSummary]:
    """Calibrate a model; raise ``ScoreNotFinite`` on overflow, ``DatasetUnfit`` where all images are copies."""
    names, grid = density.statistics, density.grid

    # Features give the anomaly maps where there are any.
    pixel_maps = density.has_map and parts_of(density)[1] is None

    def collect(part: str, images: ImageRows, standard: MapReference | None = None) -> ReferenceEvidence:
        keep_maps = pixel_maps and reference.folds is not None
        progress_of_part = progress_of(part, len(images))
        return collect_evidence(density, images, progress_of_part, standard=standard, keep_maps=keep_maps)

    def progress_of(part: str, images: int) -> Callable[[int], None]:
        return lambda done: progress(part, done, images)

    statistics = collect("statistics", reference.statistics)
    first = first_copies(reference.statistics, reference.calibration)
    # The first image of each group of copies; of a group that the statistics are fitted to, none is held out.
    ranked = (first == np.arange(len(first)))[0 if reference.folds is not None else len(reference.statistics) :]
    if not ranked.any():
        raise DatasetUnfit(f"all calibration images of {reference.dataset} are copies of those that statistics are of")
    digest = None
    if reference.folds is not None:
        held_out = statistics
        folds = one_fold_for_copies(reference.folds, first)
        digest = folds_digest(folds)
        calibration = fit_cross(statistics, folds, names, grid, reference.suspect_share, unseen, ranked)
        mean = statistics.log_likelihoods.mean()
    else:
        held_out = collect("calibration", reference.calibration, statistics.pixels() if pixel_maps else None)
        calibration = fit_split(statistics, held_out, names, grid, reference.suspect_share, ranked)
        mean = held_out.log_likelihoods.mean()
    deviation = None
    if precise is not None:
        images = reference.calibration if reference.folds is None else reference.statistics
        again = collect_evidence(precise, images, progress_of("comparison with float32", len(images)))
        deviation = _deviation(calibration, held_out, again)
    evidence = score_images(density, pinned[None])[0].evidence
    summary = CalibrationSummary(
        dataset=reference.dataset,
        dataset_digest=reference.digest,
        statistics_images=len(reference.statistics),
        calibration_images=calibration.images,
        copies=int(np.count_nonzero(~ranked)),
        tiles=None if calibration.tile_counts is None else tuple(calibration.tile_counts.tolist()),
        folds=len(calibration.folds),
        folds_sha256=digest,
        suspect_share=reference.suspect_share,
        suspects_ranked=True,
        smallest_p=calibration.smallest_p,
        statistics_log_likelihood=float(statistics.log_likelihoods.mean()),
        mean_log_likelihood=float(mean),
        engine=density.engine_name,
        precision=density.precision,
        weights_sha256=density.weights_digest,
        pinned_statistic=float(calibration.typical_statistics(evidence)[0]),
        deviation=deviation,
    )
    return calibration, summary


def _deviation(calibration: Calibration, evidence: ReferenceEvidence, precise: ReferenceEvidence) -> Deviation:
    distances = np.abs(evidence.log_likelihoods - precise.log_likelihoods)
    statistics = [calibration.typical_statistics(side.evidence) for side in (evidence, precise)]
    return Deviation(
        images=len(distances),
        median=float(np.median(distances)),
        quantile_999=float(np.quantile(distances, 0.999)),
        worst=float(distances.max()),
        worst_statistic=float(np.abs(statistics[0] - statistics[1]).max()),
    )
