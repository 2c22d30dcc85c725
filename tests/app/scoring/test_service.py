"""What is scored for several requests together is told apart again: each image its own alpha, its own failure."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from app.scoring.responses import Scored
from app.scoring.service import Asked, PlainScores
from models.errors import ScoreNotFinite
from models.scorer import Scorer


class Noting:
    """A scorer that notes its calls; an image's number is its first pixel, and 13 overflows."""

    def __init__(self) -> None:
        self.scored: list[tuple[int, ...]] = []
        self.judged: list[tuple[list[int], float | None]] = []

    def score_each(self, pixels: Any, draws: int = 1) -> list[Any]:
        self.scored.append(pixels.shape)
        numbers = [int(one.flat[0]) for one in pixels]
        return [ScoreNotFinite("overflow") if one == 13 else SimpleNamespace(number=one) for one in numbers]

    def anomalies(self, likelihoods: list[Any], alpha: float | None) -> list[Any]:
        numbers = [one.number for one in likelihoods]
        self.judged.append((numbers, alpha))
        return [(number, alpha) for number in numbers]


def image(number: int) -> Any:
    return np.full((1, 2, 2), number, np.uint8)


def test_one_call_scores_all_and_one_an_alpha_judges() -> None:
    scorer = Noting()
    asked = [(1, None), (2, 0.05), (3, None), (13, 0.05), (4, 0.05)]
    found = PlainScores(cast(Scorer, scorer), 1)([Asked(image(number), alpha) for number, alpha in asked])
    assert scorer.scored == [(5, 1, 2, 2)]
    assert scorer.judged == [([1, 3], None), ([2, 4], 0.05)]
    assert isinstance(found[3], ScoreNotFinite)
    verdicts = [one.verdict for one in found if isinstance(one, Scored)]
    assert verdicts == [(1, None), (2, 0.05), (3, None), (4, 0.05)]


def test_equal_are_those_of_one_loaded_model_and_number_of_draws() -> None:
    one, other = cast(Scorer, Noting()), cast(Scorer, Noting())
    assert PlainScores(one, 1) == PlainScores(one, 1)
    assert PlainScores(one, 1) != PlainScores(one, 2)
    assert PlainScores(one, 1) != PlainScores(other, 1)
