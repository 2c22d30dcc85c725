"""The forward pass over reference images that computes the statistics for a calibration."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from snf_models.anomaly.fitting.reference_images import ImageRows
from snf_models.anomaly.fitting.split_or_cross_conformal import ReferenceEvidence
from snf_models.errors import ScoreNotFinite
from snf_runtime.anomaly.anomaly_map import of_pixels
from snf_runtime.anomaly.calibration import MapReference
from snf_runtime.anomaly.pixel_contributions import standardise
from snf_runtime.scoring.channel_statistics import is_channel_statistic
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import Evidence

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
    together = Evidence.join(evidence) if evidence else _none(density)
    if not density.has_map:
        total = squares = None
    return ReferenceEvidence(
        together,
        values,
        total,
        squares,
        image=density.image_shape[1:],
        map_maxima=None if standard is None else np.array(maxima),
        maps=np.concatenate(kept) if kept else None,
        summed=summed,
    )


def _none(density: ImageDensity) -> Evidence:
    rows, columns = density.grid or (0, 0)
    nothing = np.zeros(0, dtype=np.uint8)
    of_channels = sum(map(is_channel_statistic, density.statistics))
    return Evidence(
        np.zeros((0, len(density.statistics) - of_channels)),
        np.zeros((0, rows * columns)),
        white_levels=nothing,
        channels=np.zeros((0, of_channels)),
    )
