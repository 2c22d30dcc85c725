"""From raw scores to the numbers of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.anomaly import conformal
from models.evaluation import schema
from models.evaluation.curves import roc_points
from models.evaluation.metrics import Resamples, bootstrap, interval, separation
from models.evaluation.scores import COMBINED, ImageScores, ScoreColumn

Array: TypeAlias = NDArray[np.float64]

DRAWN = ("combined", "thorough", "family", "baseline")
"""Families of scores whose ROC curves are drawn."""


@dataclass(frozen=True)
class Thresholds:
    """What flags images at false-alarm rate alpha: p-values of the combined score come from the model's own
    ``calibration_images``, those of any other score from its values of threshold images, sorted, ``(n, columns)``."""

    calibration_images: int
    ordered: Array

    @classmethod
    def of(cls, calibration_images: int, scored: ImageScores) -> Thresholds:
        """Return the thresholds that scored images give."""
        return cls(calibration_images, np.sort(scored.values, axis=0))

    def images(self, column: int) -> int:
        """Return the number of images that the p-values of a score come from."""
        return self.calibration_images if column == 0 else len(self.ordered)

    def p_values(self, scored: ImageScores, column: int) -> Array:
        """Return the conformal p-values of images by one score, ``(N,)``."""
        if column == 0:
            return scored.p_values
        return conformal.p_values([self.ordered[:, column]], [scored.values[:, column]])

    def share(self, scored: ImageScores, column: int, alpha: float) -> float | None:
        """Return the share of images that a score flags at ``alpha``; None where no p-value can be as small."""
        if not conformal.flagged_ranks(self.images(column), alpha):
            return None
        return float((self.p_values(scored, column) <= alpha).mean())


def describe_columns(
    columns: Sequence[ScoreColumn], thresholds: Thresholds, normal: ImageScores, alphas: Sequence[float]
) -> list[schema.Column]:
    """Return every score with its false alarms on normal images."""
    return [
        schema.Column(
            name=one.name,
            label=one.label,
            family=one.family,
            false_alarms=[_false_alarms(thresholds, normal, place, alpha) for alpha in alphas],
        )
        for place, one in enumerate(columns)
    ]


def _false_alarms(thresholds: Thresholds, normal: ImageScores, column: int, alpha: float) -> schema.FalseAlarms:
    share, images = thresholds.share(normal, column, alpha), thresholds.images(column)
    low, high = conformal.false_alarm_interval(images, len(normal), alpha)
    inside = None if share is None else low <= share <= high
    return schema.FalseAlarms(alpha=alpha, share=share, interval=(low, high), inside=inside, calibration_images=images)


def compare(
    columns: Sequence[ScoreColumn],
    thresholds: Thresholds,
    normal: ImageScores,
    strange: ImageScores,
    alphas: Sequence[float],
    resamples: int,
) -> tuple[list[schema.Result], str, tuple[float, float, float]]:
    """Return how well each score tells the sets apart, the best baseline, and AUROC of the combined one minus its.

    The difference comes with its interval (low, high); the resamples are the same for all scores.
    """
    drawn = Resamples.draw(len(normal), len(strange), resamples)
    results, aurocs = [], {}
    for place, one in enumerate(columns):
        own, other = normal.values[:, place], strange.values[:, place]
        point, draws = separation(own, other), bootstrap(own, other, drawn)
        low, high = np.array([interval(column) for column in draws.T]).T.tolist()
        aurocs[one.name] = (point.auroc, draws[:, 0])
        results.append(
            schema.Result(
                score=one.name,
                auroc=point.auroc,
                auroc_interval=(low[0], high[0]),
                aupr=point.aupr,
                aupr_interval=(low[1], high[1]),
                fpr95=point.fpr95,
                fpr95_interval=(low[2], high[2]),
                detected=[schema.Rate(alpha=a, share=thresholds.share(strange, place, a)) for a in alphas],
            )
        )
    best = max((one.name for one in columns if one.family == "baseline"), key=lambda name: aurocs[name][0])
    (ours, our_draws), (theirs, their_draws) = aurocs[COMBINED], aurocs[best]
    return results, best, (ours - theirs, *interval(our_draws - their_draws))


def curves(
    columns: Sequence[ScoreColumn], normal: ImageScores, strange: ImageScores, families: Sequence[str]
) -> list[schema.Curve]:
    """Return the ROC curves of the scores of some families."""
    return [
        schema.Curve(score=one.name, points=roc_points(normal.values[:, place], strange.values[:, place]))
        for place, one in enumerate(columns)
        if one.family in families
    ]
