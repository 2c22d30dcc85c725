"""Calibrating a frozen flow on reference images."""

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
THOROUGH_IMAGES = 2000
"""A backward pass costs several forward ones: so many images of each part are enough for verdicts with gradients."""
NONE = np.zeros(0, dtype=np.float32)

Progress = Callable[[str, int, int], None]
"""Is told of work: the part, images done, images in it."""


def looks_at_images(reference: ReferenceImages, precision: Precision = "float32") -> int:
    """Return how many looks at images calibrating takes: what the parts that ``progress`` is told of add up to."""
    statistics, calibration = len(reference.statistics), len(reference.calibration)
    compared = 0 if precision == "float32" else calibration or statistics
    backwards = min(statistics, FISHER_IMAGES) + min(statistics, THOROUGH_IMAGES) + min(calibration, THOROUGH_IMAGES)
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
    """Return a calibration and what is to be said of it; ``pinned``: the image that loading scores again.

    ``precise``: the engine in float32 that ``engine`` is compared with where it has another precision.

    Raises ``ScoreNotFinite``, and what ``progress`` raises.
    """
    names = statistic_names(frozen)
    grid = grid_shape(*frozen.image_shape[1:]) if frozen.is_spatial else None

    def look(part: str, images: ImageRows) -> ReferenceEvidence:
        return collect_evidence(engine, frozen, weights_digest, images, told(part, len(images)))

    def backwards(part: str, images: ImageRows) -> NDArray[np.float64]:
        few = min(len(images), THOROUGH_IMAGES)
        return looks.features(images, fisher, told(f"{part}, gradients", few), few)

    def told(part: str, images: int) -> Callable[[int], None]:
        return lambda done: progress(part, done, images)

    looks = GradientPasses(GradientProbe(flow), weights_digest)
    statistics = look("statistics", reference.statistics)
    fisher: list[Tensor] = []
    if reference.folds is not None:
        # No gradients: their Fisher information would hold the very images that are to be ranked against it.
        held_out = statistics
        calibration = fit_cross(statistics, reference.folds, names, grid, reference.suspect_share)
        mean = statistics.log_likelihoods.mean()
    else:
        few = min(len(reference.statistics), FISHER_IMAGES)
        fisher = looks.fisher(reference.statistics, told("squared gradients", few), few)
        statistics = statistics.with_gradients(backwards("statistics", reference.statistics))
        held_out = look("calibration", reference.calibration)
        held_out = held_out.with_gradients(backwards("calibration", reference.calibration))
        calibration = fit_split(statistics, held_out, names, grid, reference.suspect_share)
        mean = held_out.log_likelihoods.mean()
    if calibration.has_gradients:
        calibration = replace(calibration, fisher=np.concatenate([part.numpy() for part in fisher] or [NONE]))
    deviation = None
    if precise is not None:
        images = reference.calibration if reference.folds is None else reference.statistics
        again = collect_evidence(precise, frozen, weights_digest, images, told("comparison with float32", len(images)))
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


def _deviation(calibration: Calibration, found: ReferenceEvidence, precise: ReferenceEvidence) -> Deviation:
    distances = np.abs(found.log_likelihoods - precise.log_likelihoods)
    statistics = [calibration.typical_statistics(one.evidence) for one in (found, precise)]
    return Deviation(
        images=len(distances),
        median=float(np.median(distances)),
        quantile_999=float(np.quantile(distances, 0.999)),
        worst=float(distances.max()),
        worst_statistic=float(np.abs(statistics[0] - statistics[1]).max()),
    )
