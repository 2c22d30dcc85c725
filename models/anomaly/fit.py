"""Fitting a calibration to the evidence of reference images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly.calibration import Calibration, Fold, MapReference, Thorough
from models.anomaly.evidence import Evidence
from models.anomaly.gradient_family import GradientFamily
from models.anomaly.statistic import Statistic

Array: TypeAlias = NDArray[np.float64]


FEWEST = 10
"""Images that a family of gradients is fitted to at least."""


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
    gradients: Array | None = None

    def with_gradients(self, gradients: Array) -> Reference:
        """Return the same with the gradient features of its first images, ``(m, G)``."""
        return replace(self, gradients=gradients)

    def thorough(self) -> Evidence:
        """Return the evidence of the images that have gradients."""
        count = 0 if self.gradients is None else len(self.gradients)
        return replace(self.evidence[:count], gradients=self.gradients)

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
    fold = _fold(statistics.evidence, calibration.evidence, names, grid)
    fold = _thorough(fold, statistics.thorough(), calibration.thorough())
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
        fold_of = _fold(evidence[~inside], evidence[inside], names, grid)
        thorough, here = reference.thorough(), inside[: len(reference.thorough())]
        fitted.append(_thorough(fold_of, thorough[~here], thorough[here]))
    return Calibration(tuple(fitted), np.sort(reference.log_likelihoods), reference.pixels())


def _fold(fitted_to: Evidence, held_out: Evidence, names: Sequence[str], grid: tuple[int, int] | None) -> Fold:
    statistic = Statistic.fit(fitted_to, names, grid)
    return Fold(statistic, np.sort(statistic(held_out)))


def _thorough(fold: Fold, fitted_to: Evidence, held_out: Evidence) -> Fold:
    """Return the fold with verdicts from gradients, where there are gradients to fit to and to calibrate on."""
    if fitted_to.gradients is None or len(fitted_to) < FEWEST or not len(held_out):
        return fold
    family = GradientFamily.fit(fitted_to.gradients, fitted_to.whole[:, 0])
    found = replace(fold, thorough=Thorough(family, np.zeros(0)))
    return replace(fold, thorough=Thorough(family, np.sort(found.values(held_out))))
