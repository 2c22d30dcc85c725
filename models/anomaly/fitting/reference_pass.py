"""The forward pass over reference images that computes the statistics for a calibration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.anomaly.fitting.fit import ReferenceEvidence
from models.anomaly.fitting.reference_images import ImageRows
from models.errors import ScoreNotFinite
from models.scoring.density import ImageDensity
from models.scoring.evidence import Evidence

BATCH_IMAGES, BATCH_PIXELS = 512, 2**21
"""Images and pixels of a batch: a dataset may be larger than the memory, and work can be stopped between batches."""


def collect_evidence(
    density: ImageDensity, images: ImageRows, progress: Callable[[int], None] = lambda _done: None
) -> ReferenceEvidence:
    """Run a flow on normal images in batches; return their log-likelihoods and the statistics that verdicts use.

    Args:
        density: The density of the model.
        images: The images, ``(n, C, H, W)``.
        progress: Called with the number of images done; what it raises ends the work.

    Raises:
        ScoreNotFinite: The flow overflows on an image, which therefore cannot be a reference.
    """
    evidence: list[Evidence] = []
    log_likelihoods: list[float] = []
    height, width = density.image_shape[1:]
    total, squares = np.zeros((height, width)), np.zeros((height, width))
    at_once = max(1, min(BATCH_IMAGES, BATCH_PIXELS // (height * width)))
    for begin in range(0, len(images), at_once):
        batch = np.ascontiguousarray(images[begin : begin + at_once])
        for start, found in density.passes(batch):
            maps = found.additive_map().numpy()
            total += maps.sum(0)
            squares += np.square(maps).sum(0)
            log_likelihoods += found.terms().sum((1, 2)).tolist()
            evidence.append(density.evidence(batch[start : start + len(found)], found))
        progress(len(log_likelihoods))
    values = np.array(log_likelihoods)
    if not np.isfinite(values).all():
        raise ScoreNotFinite(f"the flow's arithmetic overflowed on image {int(np.argmin(np.isfinite(values)))}")
    together = Evidence.join(evidence) if evidence else _none(density)
    places = density.has_map and len(values) > 0
    return ReferenceEvidence(together, values, total if places else None, squares if places else None)


def _none(density: ImageDensity) -> Evidence:
    rows, columns = density.grid or (0, 0)
    nothing = np.zeros(0, dtype=np.uint8)
    return Evidence(np.zeros((0, len(density.statistics))), np.zeros((0, rows * columns)), white_levels=nothing)
