"""Work that is not shared, done in slices, so that it stops soon after its deadline has passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.intake import Pixels
from app.lane import BATCH, Ticket
from models.problems import ScoreNotFinite

if TYPE_CHECKING:
    from models.anomaly.heat_map import HeatMap
    from models.scoring.likelihood import Likelihood
    from models.scoring.scorer import Scorer


def score_in_slices(
    scorer: Scorer, pixels: Pixels, draws: int, ticket: Ticket, *, thorough: bool = False
) -> list[Likelihood | ScoreNotFinite]:
    """The likelihoods of images (N, C, H, W); raises `Abandoned` between two slices when nobody waits."""
    found: list[Likelihood | ScoreNotFinite] = []
    step = max(1, BATCH // draws)
    for start in range(0, len(pixels), step):
        ticket.check()
        found += scorer.score_each(pixels[start : start + step], draws=draws, thorough=thorough)
    return found


def explain_in_slices(scorer: Scorer, pixels: Pixels, ticket: Ticket, *, gradients: bool) -> list[HeatMap]:
    """The heat maps of images (N, C, H, W); raises `Abandoned` between two slices, and `NoPlaces`."""
    found: list[HeatMap] = []
    for start in range(0, len(pixels), BATCH):
        ticket.check()
        found += scorer.heat_maps(pixels[start : start + BATCH], gradients=gradients)
    return found
