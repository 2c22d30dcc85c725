"""The calibration of a model, which turns the scores of an image into a conformal p-value and an anomaly verdict.

A calibration holds statistics that were fitted to reference images, and the anomaly statistics of calibration images.
The p-value of an image is its rank among these.
"""

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
"""Upper bound of a reported T in nats: on some images the arithmetic of the statistics overflows."""
MIN_SHARE = 0.05
"""Share of the evidence below which a reason is left out."""


@dataclass(frozen=True)
class Verdict:
    """The anomaly verdict on one image: a conformal p-value, and whether it is at most the false-alarm rate ``alpha``.

    Attributes:
        p_value: The conformal p-value.
        score: -log10 of the p-value.
        is_anomaly: Whether the image is flagged.
        alpha: The false-alarm rate of the verdict.
        statistic: T in nats, larger = more anomalous. It still orders images that share the smallest p-value.
        extrapolated: Whether no calibration image was as anomalous.
        smallest_p: The smallest p-value that the calibration can give.
        reasons: What contributed most, the strongest first.
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
    """The part of a calibration for verdicts with gradients: a gradient density, and held-out anomaly statistics.

    ``ordered`` holds the anomaly statistic T of the calibration images, gradients included, sorted, in nats.
    """

    gradients: GradientFamily
    ordered: Array


@dataclass(frozen=True)
class Fold:
    """One fold of a calibration: an anomaly statistic fitted to some images, and its values on held-out images.

    ``ordered`` holds the sorted values T of the statistic on the calibration images of this fold, in nats.
    ``thorough`` is the same for evidence with gradients; None where the calibration does not support it.
    """

    statistic: Statistic
    ordered: Array
    # A name in calibration files: it stays as it is.
    thorough: GradientCalibration | None = None

    def families(self, evidence: Evidence) -> Array:
        """Return the negative log p-value of each image by each group of statistics, ``(N, groups)`` in nats.

        The groups are whole-image, local and gradient statistics. There is no local group for a flow without
        spatial structure, and no gradient group without gradient evidence.
        """
        surprises = self.statistic.families(evidence)
        if evidence.gradients is None or self.thorough is None:
            return surprises
        gradients = self.thorough.gradients.surprise(evidence.gradients, evidence.whole[:, 0])
        return np.concatenate([surprises, gradients[:, None]], axis=1)

    def values(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic of each image in nats, ``(N,)``; larger is more anomalous."""
        return merge(self.families(evidence))


@dataclass(frozen=True)
class MapReference:
    """Mean and deviation of the log-likelihood at each pixel over reference images, ``(H, W)`` each, in nats."""

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Calibration:
    """The statistics of normal images that turn scores of a model into conformal p-values and anomaly verdicts.

    Attributes:
        folds: One fold where separate images were used for calibration, several in cross-conformal calibration.
        log_likelihoods: Log-likelihoods of the reference images, sorted, in nats.
        pixels: The reference of heat maps; None for a flow without spatial structure.
        fisher: Mean squared gradients of reference images, ``(P,)``, one group of layers after the other.
    """

    folds: tuple[Fold, ...]
    log_likelihoods: Array
    pixels: MapReference | None
    fisher: NDArray[np.float32] | None = None

    def ordered(self, gradients: bool = False) -> list[Array]:
        """Return the anomaly statistics of the calibration images, sorted, one array in nats for each fold.

        Raises ``GradientEvidenceUnavailable`` where ``gradients`` are asked for, and the calibration has none.
        """
        if not gradients:
            return [fold.ordered for fold in self.folds]
        ordered = [fold.thorough.ordered for fold in self.folds if fold.thorough is not None]
        if not ordered or len(ordered) < len(self.folds):
            raise GradientEvidenceUnavailable(
                "its calibration was made without gradients, or of too few images for them"
            )
        return ordered

    @cached_property
    def images(self) -> int:
        """The number of calibration images."""
        return sum(map(len, self.ordered()))

    @property
    def has_gradients(self) -> bool:
        """Whether the calibration supports verdicts that use gradients of the log-likelihood."""
        return all(fold.thorough is not None for fold in self.folds)

    @property
    def smallest_p(self) -> float:
        """The smallest attainable p-value, 1 / (n + 1) for n calibration images, for verdicts without gradients."""
        return smallest_p(self.images)

    @property
    def default_alpha(self) -> float:
        """The default false-alarm rate: 0.01, or the smallest attainable p-value where that is larger."""
        return max(DEFAULT_ALPHA, self.smallest_p)

    def distribution(self, bins: int) -> Distribution:
        """Return a histogram and thresholds of the anomaly statistic of the calibration images, in nats."""
        return distribution(self.ordered(), bins, MAX_STATISTIC)

    def check_alpha(self, alpha: float | None, gradients: bool = False) -> float:
        """Return the given false-alarm rate ``alpha`` if it is attainable, or the default rate for None.

        Raises ``AlphaUnattainable`` where no image could be flagged at ``alpha``, and
        ``GradientEvidenceUnavailable``.
        """
        smallest = smallest_p(sum(map(len, self.ordered(gradients))))
        if alpha is not None and alpha < smallest:
            raise AlphaUnattainable(alpha, smallest)
        return max(DEFAULT_ALPHA, smallest) if alpha is None else alpha

    def statistics(self, evidence: Evidence) -> list[Array]:
        """Return the anomaly statistic of N images in nats, one array ``(N,)`` for each fold of the calibration.

        Values that overflow are infinite.
        """
        return _merged(self._families(evidence))

    def _families(self, evidence: Evidence) -> list[Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            return [fold.families(evidence) for fold in self.folds]

    def typical_statistics(self, evidence: Evidence) -> Array:
        """Return the anomaly statistic of each image in nats, ``(N,)``: the mean over the folds, at most 1e6."""
        return _typical(self.statistics(evidence))

    def p_values(self, evidence: Evidence) -> Array:
        """Return the conformal p-value of each image, ``(N,)``; small values are anomalous."""
        return p_values(self.ordered(evidence.gradients is not None), self.statistics(evidence))

    def judge(
        self, evidence: Evidence, names: Sequence[str], image: tuple[int, int], alpha: float | None = None
    ) -> list[Verdict]:
        """Return the anomaly verdict on each image, with its p-value and the reasons in words.

        Evidence with gradients is judged with them.

        Args:
            evidence: The evidence of N images.
            names: The names of the whole-image statistics.
            image: Height and width of the images in pixels.
            alpha: The false-alarm rate; None for the default.
         Raises ``AlphaUnattainable``, ``GradientEvidenceUnavailable``.
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
        statistics = [merge(surprises) for surprises in families]
    return [np.where(np.isnan(values), np.inf, values) for values in statistics]


def _typical(statistics: list[Array]) -> Array:
    typical: Array = np.minimum(np.mean(statistics, axis=0), MAX_STATISTIC)
    return typical


def explain(
    fold: Fold, evidence: Evidence, surprises: Array, names: Sequence[str], image: tuple[int, int]
) -> list[tuple[VerdictReason, ...]]:
    """Return up to three reasons for each anomaly verdict, those with the largest share of the evidence first.

    Args:
        fold: The fold whose statistics explain the verdicts.
        evidence: The evidence of N images.
        surprises: The surprise of each family, as :meth:`Fold.families` returns it for this evidence.
        names: The names of the whole-image statistics.
        image: Height and width of the images in pixels.
    """
    statistic = fold.statistic
    parts = np.exp(surprises - surprises.max(1, keepdims=True)) * weights(surprises.shape[1])
    parts = parts / parts.sum(1, keepdims=True)
    values = statistic.statistics(evidence)
    squares = np.square(statistic.whole.components(values))
    shares = parts[:, :1] * squares / np.maximum(squares.sum(1, keepdims=True), 1e-12)
    z = statistic.whole.standardised(values)
    all_names = statistic.names(names)
    labels = [*(all_names[i] for i in statistic.whole.used), COMPLEXITY]
    # An uneven map has a region that makes it so; that region is the reason to report.
    uneven = np.array([label.startswith("unevenness-") for label in labels]) & (z > 0)
    regional = np.where(uneven, shares, 0).sum(1)
    shares = np.where(uneven, 0, shares)
    reasons: list[list[VerdictReason]] = [
        [statistic_reason(labels[k], float(z[i, k]), float(shares[i, k])) for k in np.argsort(-shares[i])[:MAX_REASONS]]
        for i in range(len(evidence))
    ]
    if statistic.local is not None:
        side = cell_side(*image)
        regions = statistic.local.most_surprising(evidence.cells, evidence.whole[:, 0])
        for i, (region, deviation) in enumerate(regions):
            reasons[i].append(region_reason(region, deviation, float(parts[i, 1] + regional[i]), side, image))
    if evidence.gradients is not None:
        for i, of_image in enumerate(reasons):
            of_image.append(gradient_reason(float(surprises[i, -1]), float(parts[i, -1])))
    return [
        tuple(sorted((r for r in of_image if r.share >= MIN_SHARE), key=lambda r: -r.share)[:MAX_REASONS])
        for of_image in reasons
    ]
