"""Numbers of a report: false alarms, detection rates, metrics and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.evaluations import Column, Curve, FalseAlarms, Rate, Result
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.evaluation.compared_scores import COMBINED, ImageScores, ScoreColumn
from snf_models.evaluation.curves import roc_points
from snf_models.evaluation.metrics import auroc_gain, intervals, separation
from snf_runtime.anomaly import calibration

Array: TypeAlias = NDArray[np.float64]

DRAWN = ("combined", "family", "baseline")
"""Families of scores whose ROC curves are drawn."""


@dataclass(frozen=True)
class Thresholds:
    """Scores of normal images, among which others are ranked. The combined score has the calibration instead."""

    calibration_images: int
    ordered: Array  # each column sorted, ``(n, columns)``

    @classmethod
    def of(cls, calibration_images: int, scored: ImageScores) -> Thresholds:
        return cls(calibration_images, np.sort(scored.values, axis=0))

    def images(self, column: int) -> int:
        """Return the number of normal images among which a column is ranked."""
        return self.calibration_images if column == 0 else len(self.ordered)

    def p_values(self, scored: ImageScores, column: int) -> Array:
        """Return the conformal p-values of a column, ``(N,)``."""
        if column == 0:
            return scored.p_values
        return calibration.p_values([self.ordered[:, column]], [scored.values[:, column]])

    def rate(self, scored: ImageScores, column: int, alpha: float) -> Rate:
        """Return the share that is flagged at ``alpha``, or at the smallest p-value if that is larger."""
        alpha = max(alpha, calibration.smallest_p(self.images(column)))
        return Rate(alpha=alpha, share=float((self.p_values(scored, column) <= alpha).mean()))


def describe_columns(
    columns: Sequence[ScoreColumn], thresholds: Thresholds, normal: ImageScores, alphas: Sequence[float]
) -> list[Column]:
    """Describe each score, with its false alarms on normal images."""
    return [
        Column(
            name=column.name,
            label=column.label,
            family=column.family,
            false_alarms=[_false_alarms(thresholds, normal, place, alpha) for alpha in alphas],
        )
        for place, column in enumerate(columns)
    ]


def _false_alarms(thresholds: Thresholds, normal: ImageScores, column: int, alpha: float) -> FalseAlarms:
    flagged, images = thresholds.rate(normal, column, alpha), thresholds.images(column)
    low, high = false_alarm_interval(images, len(normal), flagged.alpha)
    inside = flagged.share is not None and low <= flagged.share <= high
    return FalseAlarms(
        alpha=flagged.alpha, share=flagged.share, interval=(low, high), inside=inside, calibration_images=images
    )


def compare(
    columns: Sequence[ScoreColumn],
    thresholds: Thresholds,
    normal: ImageScores,
    strange: ImageScores,
    alphas: Sequence[float],
) -> tuple[list[Result], str, tuple[float, float, float]]:
    """Return the results of all scores, the best baseline, and the combined score's gain in AUROC with its interval."""
    results = []
    for place, column in enumerate(columns):
        own, other = normal.values[:, place], strange.values[:, place]
        point, (of_auroc, of_aupr, of_fpr95) = separation(own, other), intervals(own, other)
        results.append(
            Result(
                score=column.name,
                auroc=point.auroc,
                auroc_interval=of_auroc,
                aupr=point.aupr,
                aupr_interval=of_aupr,
                fpr95=point.fpr95,
                fpr95_interval=of_fpr95,
                detected=[thresholds.rate(strange, place, alpha) for alpha in alphas],
            )
        )
    names = [column.name for column in columns]
    baselines = (place for place, column in enumerate(columns) if column.family == "baseline")
    best = max(baselines, key=lambda place: results[place].auroc)
    pair = [names.index(COMBINED), best]
    gain, (low, high) = auroc_gain(tuple(normal.values[:, pair].T), tuple(strange.values[:, pair].T))
    return results, names[best], (gain, low, high)


def curves(
    columns: Sequence[ScoreColumn], normal: ImageScores, strange: ImageScores, families: Sequence[str]
) -> list[Curve]:
    return [
        Curve(score=column.name, points=roc_points(normal.values[:, place], strange.values[:, place]))
        for place, column in enumerate(columns)
        if column.family in families
    ]
