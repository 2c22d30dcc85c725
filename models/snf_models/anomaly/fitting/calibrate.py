"""Calibration of a trained model on normal images, so that new images can get p-values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from snf_models.anomaly.fitting.copies import first_copies, one_fold_for_copies
from snf_models.anomaly.fitting.reference_images import ImageRows, ReferenceImages, folds_digest
from snf_models.anomaly.fitting.reference_pass import collect_evidence
from snf_models.anomaly.fitting.split_or_cross_conformal import ReferenceEvidence, fit_cross, fit_split
from snf_models.artifacts.manifest import CalibrationSummary, Deviation, Precision
from snf_models.errors import DatasetUnfit
from snf_runtime.anomaly.calibration import Calibration, MapReference
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import FeatureEvidence
from snf_runtime.scoring.likelihood import score_images
from snf_runtime.scoring.pixel_density import PixelDensity

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
    pixel_maps = density.has_map and isinstance(density, PixelDensity)

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
    assert evidence is not None
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
