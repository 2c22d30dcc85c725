"""What `odd_images.py` makes of scores under the models of all labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.scoring.schemas import FailedImage, ScoredImage

Scored = dict[Path, ScoredImage | FailedImage]
"""Results of images under one model."""
Usual = dict[str, tuple[float, float]]
"""Median and spread of the evidence against each label's own images."""


@dataclass(frozen=True)
class Judged:
    """An image under the model of its label, and under the one that suits it better where its label is doubted.

    `strangeness` is its evidence beyond the median of its label, in units of the distance to the 9th decile.
    """

    path: Path
    label: str
    own: ScoredImage
    strangeness: float
    looks_like: str | None = None
    other: ScoredImage | None = None

    @property
    def doubt(self) -> float:
        """How many times more usual the image is under the other label; 0 where its label is not doubted."""
        return self.other.anomaly.p_value / self.own.anomaly.p_value if self.other else 0.0

    @property
    def reasons(self) -> list[str]:
        """What speaks against the image, in words."""
        return [reason.text for reason in self.own.anomaly.reasons or []]


def judged(path: Path, label: str, scores: dict[str, Scored], usual: Usual, least_doubt: float) -> Judged | None:
    """What the scores under all labels say of an image; None where it could not be scored."""
    own = scores[label][path]
    if isinstance(own, FailedImage):
        return None
    median, spread = usual[label]
    found = Judged(path, label, own, (own.anomaly.statistic - median) / spread)
    others = [(name, one) for name, by in scores.items() if name != label and isinstance(one := by[path], ScoredImage)]
    # Densities of images of one size can be compared, and so, roughly, can their bits a dimension where sizes differ.
    better = [(name, one) for name, one in others if one.bits_per_dim < own.bits_per_dim]
    if not better:
        return found
    name, other = max(better, key=lambda one: one[1].anomaly.p_value)
    doubted = replace(found, looks_like=name, other=other)
    return doubted if doubted.doubt >= least_doubt else found


def usual_of(labels: dict[Path, str], scores: dict[str, Scored]) -> Usual:
    """Median, and distance to the 9th decile, of the evidence against each label's own images."""
    found = {}
    for label, by in scores.items():
        evidence = [one.anomaly.statistic for path, one in by.items() if labels[path] == label and one.status == "ok"]
        if evidence:
            median, decile = np.quantile(evidence, [0.5, 0.9])
            found[label] = (float(median), max(float(decile - median), 1e-9))
    return found
