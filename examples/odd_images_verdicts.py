"""Verdicts of ``odd_images.py`` on images, from their scores under the models of all labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from snf_client.schemas.scores import FailedImage, ScoredImage

Results = dict[Path, ScoredImage | FailedImage]
"""Results of images under one model."""
TypicalEvidence = dict[str, tuple[float, float]]
"""Median and spread of the anomaly statistic of each label's own images, nats."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on an image: its result under the model of its label, and under a better one if the label is doubted.

    ``strangeness`` is the distance of its anomaly statistic from the median of its label, in units of the distance
    between the median and the 9th decile.
    """

    path: Path
    label: str
    own: ScoredImage
    strangeness: float
    looks_like: str | None = None
    other: ScoredImage | None = None

    @property
    def doubt(self) -> float:
        """Ratio of the p-values under the other label and the own one; 0 if the label is not doubted."""
        return self.other.anomaly.p_value / self.own.anomaly.p_value if self.other else 0.0

    @property
    def reasons(self) -> list[str]:
        """The reasons for an anomaly in words, the strongest first."""
        return [reason.text for reason in self.own.anomaly.reasons or []]


def verdict_on(
    path: Path, label: str, scores: dict[str, Results], typical: TypicalEvidence, min_doubt: float
) -> Verdict | None:
    """Return the verdict on an image from its results under all models; None if it could not be scored.

    Args:
        path: The image.
        label: Its label.
        scores: Results of all images under the model of each label.
        typical: Median and spread of each label's own images.
        min_doubt: Ratio of p-values from which the label is doubted.
    """
    own = scores[label][path]
    if isinstance(own, FailedImage):
        return None
    median, spread = typical[label]
    verdict = Verdict(path, label, own, (own.anomaly.statistic - median) / spread)
    others = {name: results[path] for name, results in scores.items() if name != label}
    # Densities are comparable for images of one size; bits/dim are roughly comparable for different sizes. Models of
    # features have no bits/dim, and their densities are not comparable.
    better = [
        (name, other)
        for name, other in others.items()
        if isinstance(other, ScoredImage)
        and other.bits_per_dim is not None
        and own.bits_per_dim is not None
        and other.bits_per_dim < own.bits_per_dim
    ]
    if not better:
        return verdict
    name, other = max(better, key=lambda candidate: candidate[1].anomaly.p_value)
    doubted = replace(verdict, looks_like=name, other=other)
    return doubted if doubted.doubt >= min_doubt else verdict


def typical_evidence(labels: dict[Path, str], scores: dict[str, Results]) -> TypicalEvidence:
    """Return the median of the anomaly statistic of each label's own images, and its distance to the 9th decile."""
    typical = {}
    for label, results in scores.items():
        own = [result for path, result in results.items() if labels[path] == label]
        evidence = [result.anomaly.statistic for result in own if result.status == "ok"]
        if evidence:
            median, decile = np.quantile(evidence, [0.5, 0.9])
            typical[label] = (float(median), max(float(decile - median), 1e-9))
    return typical
