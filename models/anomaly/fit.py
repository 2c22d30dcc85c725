"""Fitting a calibration to the evidence of reference images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly.calibration import Calibration, Fold, MapReference
from models.anomaly.evidence import Evidence
from models.anomaly.statistic import Statistic

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What one pass over reference images gave.

    ``log_likelihoods``: ``(n,)`` in nats. ``map_sum``, ``map_squares``: sums over the images of the additive map and of
    its square, ``(H, W)``; None where a flow has no notion of place.
    """

    evidence: Evidence
    log_likelihoods: Array
    map_sum: Array | None
    map_squares: Array | None

    def pixels(self) -> MapReference | None:
        """Return mean and deviation of the map at each pixel."""
        if self.map_sum is None or self.map_squares is None:
            return None
        count = len(self.evidence)
        mean = self.map_sum / count
        deviation = np.sqrt(np.maximum(self.map_squares / count - np.square(mean), 0))
        return MapReference(mean, np.maximum(deviation, max(0.1 * float(np.median(deviation)), 1e-9)))


def fit_split(
    statistics: Reference, calibration: Reference, names: Sequence[str], grid: tuple[int, int] | None
) -> Calibration:
    """Fit to ``statistics``, and take p-values from ``calibration``, which no fit has seen.

    ``names``: of the whole-image statistics; ``grid``: rows and columns of cells, None without a notion of place.
    """
    fitted = Statistic.fit(statistics.evidence, names, grid)
    fold = Fold(fitted, np.sort(fitted(calibration.evidence)))
    together = np.concatenate([statistics.log_likelihoods, calibration.log_likelihoods])
    return Calibration((fold,), np.sort(together), statistics.pixels())


def fit_cross(
    reference: Reference, folds: NDArray[np.integer], names: Sequence[str], grid: tuple[int, int] | None
) -> Calibration:
    """Fit to all folds but one in turn, and take that one's values: 5-fold cross-conformal for few images (Vovk 2015).

    ``folds``: the fold of each image, ``(n,)``.
    """
    evidence = reference.evidence
    fitted = []
    for fold in np.unique(folds):
        inside = np.asarray(folds == fold)
        statistic = Statistic.fit(evidence[~inside], names, grid)
        fitted.append(Fold(statistic, np.sort(statistic(evidence[inside]))))
    return Calibration(tuple(fitted), np.sort(reference.log_likelihoods), reference.pixels())
