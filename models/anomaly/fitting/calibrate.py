"""Calibration of a frozen flow on reference images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.anomaly.calibration import Calibration
from models.anomaly.fitting.fit import ReferenceEvidence, fit_cross, fit_split
from models.anomaly.fitting.reference_images import ImageRows, ReferenceImages
from models.anomaly.fitting.reference_pass import collect_evidence
from models.anomaly.gradients.passes import GradientPasses
from models.anomaly.gradients.probe import GradientProbe
from models.artifacts.manifest import CalibrationSummary, Deviation, Precision
from models.flows.flow import Flow
from models.scoring.engines import Engine
from models.scoring.frozen import FrozenFlow
from models.scoring.grid import grid_shape
from models.scoring.likelihood import score_images
from models.scoring.whole_image import statistic_names

FISHER_IMAGES = 500
GRADIENT_IMAGES = 2000
"""Most images of each part with a backward pass, which costs several forward passes."""
NONE = np.zeros(0, dtype=np.float32)

Progress = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the images done, and the images in the part."""


def count_image_passes(reference: ReferenceImages, precision: Precision = "float32") -> int:
    """Return how many times a calibration passes an image through the flow: an image passed twice counts twice."""
    statistics, calibration = len(reference.statistics), len(reference.calibration)
    compared = 0 if precision == "float32" else calibration or statistics
    backwards = min(statistics, FISHER_IMAGES) + min(statistics, GRADIENT_IMAGES) + min(calibration, GRADIENT_IMAGES)
    return statistics + calibration + backwards + compared


def calibrate(
    engine: Engine,
    frozen: FrozenFlow,
    weights_digest: str,
    flow: Flow,
    reference: ReferenceImages,
    pinned: NDArray[np.uint8],
    progress: Progress,
    precise: Engine | None = None,
) -> tuple[Calibration, CalibrationSummary]:
    """Measure normal images with a model to give new images p-values; return the calibration and its summary.

    Args:
        engine: The engine whose scores the calibration is for.
        frozen: The frozen flow of the model.
        weights_digest: The digest of the weights, which keys the dequantisation noise.
        flow: The flow with its weights, for gradients.
        reference: The images to calibrate on.
        pinned: The image, ``(C, H, W)``, that is scored again whenever the model is loaded.
        progress: Called with the progress; what it raises ends the work.
        precise: The float32 engine to compare with, where ``engine`` has another precision.

    Raises:
        ScoreNotFinite: The flow overflows on a reference image.
    """
    names = statistic_names(frozen)
    grid = grid_shape(*frozen.image_shape[1:]) if frozen.is_spatial else None

    def collect(part: str, images: ImageRows) -> ReferenceEvidence:
        return collect_evidence(engine, frozen, weights_digest, images, progress_of(part, len(images)))

    def backwards(part: str, images: ImageRows) -> NDArray[np.float64]:
        few = min(len(images), GRADIENT_IMAGES)
        return passes.features(images, fisher, progress_of(f"{part}, gradients", few), few)

    def progress_of(part: str, images: int) -> Callable[[int], None]:
        return lambda done: progress(part, done, images)

    passes = GradientPasses(GradientProbe(flow), weights_digest)
    statistics = collect("statistics", reference.statistics)
    fisher: list[Tensor] = []
    if reference.folds is not None:
        # No gradients: their Fisher information would include the images that are to be ranked against it.
        held_out = statistics
        calibration = fit_cross(statistics, reference.folds, names, grid, reference.suspect_share)
        mean = statistics.log_likelihoods.mean()
    else:
        few = min(len(reference.statistics), FISHER_IMAGES)
        fisher = passes.fisher(reference.statistics, progress_of("squared gradients", few), few)
        statistics = statistics.with_gradients(backwards("statistics", reference.statistics))
        held_out = collect("calibration", reference.calibration)
        held_out = held_out.with_gradients(backwards("calibration", reference.calibration))
        calibration = fit_split(statistics, held_out, names, grid, reference.suspect_share)
        mean = held_out.log_likelihoods.mean()
    if calibration.has_gradients:
        calibration = replace(calibration, fisher=np.concatenate([part.numpy() for part in fisher] or [NONE]))
    deviation = None
    if precise is not None:
        images = reference.calibration if reference.folds is None else reference.statistics
        again = collect_evidence(
            precise, frozen, weights_digest, images, progress_of("comparison with float32", len(images))
        )
        deviation = _deviation(calibration, held_out, again)
    evidence = score_images(engine, frozen, weights_digest, pinned[None])[0].evidence
    assert evidence is not None
    summary = CalibrationSummary(
        dataset=reference.dataset,
        dataset_digest=reference.digest,
        statistics_images=len(reference.statistics),
        calibration_images=calibration.images,
        folds=len(calibration.folds),
        suspect_share=reference.suspect_share,
        smallest_p=calibration.smallest_p,
        statistics_log_likelihood=float(statistics.log_likelihoods.mean()),
        mean_log_likelihood=float(mean),
        engine=engine.name,
        precision=engine.precision,
        weights_sha256=weights_digest,
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
