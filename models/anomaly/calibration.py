"""A calibration: how strange images of a reference set are, so that a new one gets a p-value and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly.conformal import DEFAULT_ALPHA, Distribution, distribution, p_values, smallest_p
from models.anomaly.reasons import VerdictReason, gradient_reason, region_reason, statistic_reason
from models.anomaly.statistics.combined import Statistic, merge, weights
from models.anomaly.statistics.gradient import GradientFamily
from models.errors import AlphaUnattainable, GradientEvidenceUnavailable
from models.scoring.evidence import Evidence
from models.scoring.grid import cell_side
from models.scoring.whole_image import COMPLEXITY

Array: TypeAlias = NDArray[np.float64]

MAX_REASONS = 3
MAX_STATISTIC = 1e6
"""T is told up to here, nats: on some images the arithmetic of the statistics overflows."""
MIN_SHARE = 0.05
"""A reason with less of the evidence than this is not worth a person's time."""


@dataclass(frozen=True)
class Verdict:
    """A verdict: flagged when ``p_value <= alpha``.

    ``score`` is -log10 p; ``statistic`` is T in nats, larger = stranger, which goes on where p-values end:
    ``extrapolated`` says that no calibration image was as strange.
    """

    p_value: float
    score: float
    is_anomaly: bool
    alpha: float
    statistic: float
    extrapolated: bool
    smallest_p: float
    reasons: tuple[VerdictReason, ...]


@dataclass(frozen=True)
class GradientCalibration:
    """The family of gradients, and the sorted values T of all families together of the calibration images."""

    gradients: GradientFamily
    ordered: Array


@dataclass(frozen=True)
class Fold:
    """A fitted statistic, and its sorted values T of calibration images that it was not fitted to.

    ``thorough``: the same for evidence that has gradients; absent where a calibration does not offer it.
    """

    statistic: Statistic
    ordered: Array
    # A name in calibration files: it stays as it is.
    thorough: GradientCalibration | None = None

    def families(self, evidence: Evidence) -> Array:
        """Return the surprise of each family, ``(N, families)``, that of gradients last where the evidence has them."""
        found = self.statistic.families(evidence)
        if evidence.gradients is None or self.thorough is None:
            return found
        gradients = self.thorough.gradients.surprise(evidence.gradients, evidence.whole[:, 0])
        return np.concatenate([found, gradients[:, None]], axis=1)

    def values(self, evidence: Evidence) -> Array:
        """Return T of each image, ``(N,)`` in nats."""
        return merge(self.families(evidence))


@dataclass(frozen=True)
class MapReference:
    """Mean and deviation of the additive map at each pixel over the reference images, ``(H, W)`` in nats."""

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Calibration:
    """The folds, one where the calibration images are a part of their own; and what pictures are drawn against.

    ``log_likelihoods``: of the reference images, sorted, in nats. ``pixels``: absent where a flow knows no places.
    ``fisher``: the mean squared gradients of reference images, group after group, ``(P,)``.
    """

    folds: tuple[Fold, ...]
    log_likelihoods: Array
    pixels: MapReference | None
    fisher: NDArray[np.float32] | None = None

    def ordered(self, gradients: bool = False) -> list[Array]:
        """Return the sorted T of the calibration images of each fold. Raises ``GradientEvidenceUnavailable``."""
        if not gradients:
            return [fold.ordered for fold in self.folds]
        found = [fold.thorough.ordered for fold in self.folds if fold.thorough is not None]
        if not found or len(found) < len(self.folds):
            raise GradientEvidenceUnavailable(
                "its calibration was made without gradients, or of too few images for them"
            )
        return found

    @cached_property
    def images(self) -> int:
        """The number of calibration images."""
        return sum(map(len, self.ordered()))

    @property
    def has_gradients(self) -> bool:
        """Whether verdicts may take gradients into account."""
        return all(fold.thorough is not None for fold in self.folds)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value this calibration can give without gradients: 1 / (n + 1)."""
        return smallest_p(self.images)

    @property
    def default_alpha(self) -> float:
        """The false-alarm rate used when none is asked: 0.01, or the smallest attainable."""
        return max(DEFAULT_ALPHA, self.smallest_p)

    def distribution(self, bins: int) -> Distribution:
        """Return the histogram of T of the calibration images, and where p-values fall to the usual alphas."""
        return distribution(self.ordered(), bins, MAX_STATISTIC)

    def check_alpha(self, alpha: float | None, gradients: bool = False) -> float:
        """Return the false-alarm rate to use, 0.01 or the smallest attainable where none is asked.

        Raises ``AlphaUnattainable`` where nothing could ever be flagged, ``GradientEvidenceUnavailable``.
        """
        smallest = smallest_p(sum(map(len, self.ordered(gradients))))
        if alpha is not None and alpha < smallest:
            raise AlphaUnattainable(alpha, smallest)
        return max(DEFAULT_ALPHA, smallest) if alpha is None else alpha

    def statistics(self, evidence: Evidence) -> list[Array]:
        """Return T of each image by the fit of each fold; infinite where arithmetic overflows: as strange as can be."""
        return _merged(self._families(evidence))

    def _families(self, evidence: Evidence) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return [fold.families(evidence) for fold in self.folds]

    def typical_statistics(self, evidence: Evidence) -> Array:
        """Return T of each image, the mean over the folds, ``(N,)`` in nats, at most a million."""
        return _typical(self.statistics(evidence))

    def p_values(self, evidence: Evidence) -> Array:
        """Return the p-value of each image, ``(N,)``."""
        return p_values(self.ordered(evidence.gradients is not None), self.statistics(evidence))

    def judge(
        self, evidence: Evidence, names: Sequence[str], image: tuple[int, int], alpha: float | None = None
    ) -> list[Verdict]:
        """Return the verdict on each image at false-alarm rate ``alpha`` (None: the default).

        ``names``: of the whole-image statistics; ``image``: height and width in pixels. Evidence with gradients is
        judged with them. Raises ``AlphaUnattainable``, ``GradientEvidenceUnavailable``.
        """
        gradients = evidence.gradients is not None
        used = self.check_alpha(alpha, gradients)
        reference = self.ordered(gradients)
        smallest = smallest_p(sum(map(len, reference)))
        if not len(evidence):
            return []
        families = self._families(evidence)
        statistics = _merged(families)
        p = p_values(reference, statistics)
        typical = _typical(statistics)
        with np.errstate(over="ignore", invalid="ignore"):
            reasons = explain(self.folds[0], evidence, families[0], names, image)
        return [
            Verdict(
                float(p[i]),
                abs(math.log10(p[i])),
                bool(p[i] <= used),
                used,
                float(typical[i]),
                bool(p[i] <= smallest),
                smallest,
                reasons[i],
            )
            for i in range(len(p))
        ]


def _merged(families: list[Array]) -> list[Array]:
    with np.errstate(over="ignore", invalid="ignore"):
        found = [merge(one) for one in families]
    return [np.where(np.isnan(one), np.inf, one) for one in found]


def _typical(statistics: list[Array]) -> Array:
    typical: Array = np.minimum(np.mean(statistics, axis=0), MAX_STATISTIC)
    return typical


def explain(
    fold: Fold, evidence: Evidence, surprises: Array, names: Sequence[str], image: tuple[int, int]
) -> list[tuple[VerdictReason, ...]]:
    """Return what speaks loudest in each image, at most three reasons, the strongest first.

    ``surprises``: of each family, as :meth:`Fold.families` gives them for this evidence.
    """
    statistic = fold.statistic
    parts = np.exp(surprises - surprises.max(1, keepdims=True)) * weights(surprises.shape[1])
    parts = parts / parts.sum(1, keepdims=True)
    found_statistics = statistic.statistics(evidence)
    squares = np.square(statistic.whole.components(found_statistics))
    shares = parts[:, :1] * squares / np.maximum(squares.sum(1, keepdims=True), 1e-12)
    z = statistic.whole.standardised(found_statistics)
    all_names = statistic.names(names)
    labels = [*(all_names[i] for i in statistic.whole.used), COMPLEXITY]
    # Where the map is uneven there is a region that makes it so: that is what to look at.
    uneven = np.array([label.startswith("unevenness-") for label in labels]) & (z > 0)
    regional = np.where(uneven, shares, 0).sum(1)
    shares = np.where(uneven, 0, shares)
    found: list[list[VerdictReason]] = [
        [statistic_reason(labels[k], float(z[i, k]), float(shares[i, k])) for k in np.argsort(-shares[i])[:MAX_REASONS]]
        for i in range(len(evidence))
    ]
    if statistic.local is not None:
        side = cell_side(*image)
        regions = statistic.local.strangest(evidence.cells, evidence.whole[:, 0])
        for i, (region, deviation) in enumerate(regions):
            found[i].append(region_reason(region, deviation, float(parts[i, 1] + regional[i]), side, image))
    if evidence.gradients is not None:
        for i, reasons in enumerate(found):
            reasons.append(gradient_reason(float(surprises[i, -1]), float(parts[i, -1])))
    return [
        tuple(sorted((r for r in some if r.share >= MIN_SHARE), key=lambda r: -r.share)[:MAX_REASONS]) for some in found
    ]
