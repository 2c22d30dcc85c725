"""Scores and verdicts without anything else: what the requests that wait for one model are given together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.scoring.request_images import Pixels

if TYPE_CHECKING:
    from models.anomaly.judged import Judgement
    from models.scorer import Scorer


class Asked(NamedTuple):
    """One image, uint8 (C, H, W), and the false-alarm rate of its verdict; None: the model's default."""

    pixels: Pixels
    alpha: float | None


@dataclass(frozen=True)
class PlainScores:
    """A function for `ScoringQueue.run_each`, equal to another of the same loaded model and number of draws."""

    scorer: Scorer
    draws: int

    def __call__(self, asked: Sequence[Asked]) -> list[Judgement]:
        """What is known of each image, which does not depend on the others."""
        images = np.stack([image.pixels for image in asked])
        return self.scorer.judge_each(images, [image.alpha for image in asked], self.draws)
