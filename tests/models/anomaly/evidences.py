"""Evidence of no image at all: random statistics and smooth random cells."""

from functools import cache

import numpy as np

from snf_models.anomaly.calibrate import ReferenceEvidence, fit_split
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.evidence import Evidence

NAMES = ("complexity", "pixel-term", "volume-1", "spread-1", "radius-1", "kurtosis-1", "reconstruction-1")
GRID = (6, 6)
IMAGE = (12, 12)


def evidence(count: int, seed: int = 0) -> Evidence:
    """Statistics that follow complexity, and cells that follow their neighbours."""
    generator = np.random.default_rng(seed)
    complexity = generator.uniform(1, 3, count)
    whole = generator.standard_normal((count, len(NAMES))) @ generator_matrix(len(NAMES)) + 2 * complexity[:, None]
    whole[:, 0] = complexity
    cells = generator.standard_normal((count, 36)) @ generator_matrix(36) - 5
    return Evidence(whole, cells)


def generator_matrix(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The same mixing for every draw."""
    return np.eye(size) + 0.2 * np.random.default_rng(99).standard_normal((size, size))


def reference(count: int, seed: int = 0) -> ReferenceEvidence:
    """What a pass over so many reference images might have given."""
    found = evidence(count, seed)
    maps = np.random.default_rng(seed).normal(size=(count, *IMAGE))
    return ReferenceEvidence(found, found.whole[:, 2], maps.sum(0), np.square(maps).sum(0))


@cache
def split(fitted: int = 300, held_out: int = 99) -> Calibration:
    """Fitted to so many images, with p-values from so many others. Never change its arrays."""
    return fit_split(reference(fitted, 1), reference(held_out, 2), NAMES, GRID)
