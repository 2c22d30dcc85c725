"""The numbers in the report of an evaluation: false alarms, detection rates, metrics and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly.false_alarms import false_alarm_interval
from models.evaluation import schema
from models.evaluation.compared_scores import COMBINED, ImageScores, ScoreColumn
from models.evaluation.curves import roc_points
from models.evaluation.metrics import auroc_gain, intervals, separation
from snf_runtime.anomaly import conformal

Array: TypeAlias = NDArray[np.float64]

DRAWN = ("combined", "thorough", "family", "baseline")
"""Families of scores whose ROC curves are drawn."""


@dataclass(frozen=True)
class Thresholds:
    """Sorted anomaly scores of normal images, among which the score of another image is ranked.

    The rank gives the p-value of the other image (conformal test).

    P-values of the combined score come from the calibration of the model; those of any other score are ranks among
    its values for the threshold images.

    Attributes:
        calibration_images: The number of calibration images of the model.
        ordered: The scores of n threshold images, each column sorted, ``(n, columns)``.
    """

    calibration_images: int
    ordered: Array

    @classmethod
    def of(cls, calibration_images: int, scored: ImageScores) -> Thresholds:
        """Sort the anomaly scores of normal images, and return them as ``Thresholds``.

        These images are reserved for this purpose: they are neither tested nor used to fit baselines.
        """
        return cls(calibration_images, np.sort(scored.values, axis=0))

    def images(self, column: int) -> int:
        """Return the number of normal images among which a score is ranked to get p-values.

        The score is that in the column ``column``. Column 0 is the combined score, which is ranked among the
        calibration images of the model.
        """
        return self.calibration_images if column == 0 else len(self.ordered)

    def p_values(self, scored: ImageScores, column: int) -> Array:
        """Return each image's conformal p-value for the anomaly score in column ``column`` of ``scored.values``.

        It is (1 + number of normal scores >= its own) / (1 + normal images). The result is ``(N,)``.
        """
        if column == 0:
            return scored.p_values
        return conformal.p_values([self.ordered[:, column]], [scored.values[:, column]])

    def rate(self, scored: ImageScores, column: int, alpha: float) -> schema.Rate:
        """Return the fraction of images that one anomaly score flags at false-alarm rate ``alpha``.

        The images are those of ``scored``. The score is that in column ``column``.

        An image is flagged if its p-value is at most ``alpha``, or the smallest p-value of this score if that is
        larger.
        """
        alpha = max(alpha, conformal.smallest_p(self.images(column)))
        return schema.Rate(alpha=alpha, share=float((self.p_values(scored, column) <= alpha).mean()))


def describe_columns(
    columns: Sequence[ScoreColumn], thresholds: Thresholds, normal: ImageScores, alphas: Sequence[float]
) -> list[schema.Column]:
    """Return descriptions of the anomaly scores for a report: name, label, family and false-alarm rates.

    They are in the given order; the false-alarm rates are those on normal images.
    """
    return [
        schema.Column(
            name=column.name,
            label=column.label,
            family=column.family,
            false_alarms=[_false_alarms(thresholds, normal, place, alpha) for alpha in alphas],
        )
        for place, column in enumerate(columns)
    ]


def _false_alarms(thresholds: Thresholds, normal: ImageScores, column: int, alpha: float) -> schema.FalseAlarms:
    flagged, images = thresholds.rate(normal, column, alpha), thresholds.images(column)
    low, high = false_alarm_interval(images, len(normal), flagged.alpha)
    inside = flagged.share is not None and low <= flagged.share <= high
    return schema.FalseAlarms(
        alpha=flagged.alpha, share=flagged.share, interval=(low, high), inside=inside, calibration_images=images
    )


def compare(
    columns: Sequence[ScoreColumn],
    thresholds: Thresholds,
    normal: ImageScores,
    strange: ImageScores,
    alphas: Sequence[float],
) -> tuple[list[schema.Result], str, tuple[float, float, float]]:
    """Return AUROC and other metrics of each score, and the model's AUROC advantage over the best baseline.

    The interval of the advantage is paired.

    Args:
        columns: The scores.
        thresholds: The p-values by which scores flag images.
        normal: The scores of normal images.
        strange: The scores of anomalous images.
        alphas: The false-alarm rates to report.

    Returns:
        The results in the order of ``columns``, the name of the baseline with the largest AUROC, and the AUROC of the
        combined score minus that of this baseline with the ends of its 95 % interval.
    """
    results = []
    for place, column in enumerate(columns):
        own, other = normal.values[:, place], strange.values[:, place]
        point, (of_auroc, of_aupr, of_fpr95) = separation(own, other), intervals(own, other)
        results.append(
            schema.Result(
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
) -> list[schema.Curve]:
    """Return the ROC curve of each anomaly score whose kind, such as ``baseline``, is asked for.

    The kinds are in ``families``. A curve has at most 200 points.
    """
    return [
        schema.Curve(score=column.name, points=roc_points(normal.values[:, place], strange.values[:, place]))
        for place, column in enumerate(columns)
        if column.family in families
    ]
