"""Work is looked at often enough to stop soon, however many draws an image has."""

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from app.lane import Abandoned, Ticket
from app.slices import score_in_slices
from models.scoring.scorer import Scorer


class Counting:
    """A scorer that notes what it is asked for and gives each image's first pixel back."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def score_each(self, pixels: Any, draws: int = 1, *, thorough: bool = False) -> list[Any]:
        self.asked.append(len(pixels) * draws)
        return [int(one.flat[0]) for one in pixels]


@pytest.fixture
def ticket() -> Ticket:
    loop = asyncio.new_event_loop()
    made = Ticket(list, [None], 1, loop.create_future())
    loop.close()
    return made


PIXELS = np.arange(130, dtype=np.uint8)[:, None, None, None]


@pytest.mark.parametrize(("draws", "largest", "slices"), [(1, 32, 5), (5, 30, 22), (64, 64, 130), (256, 256, 130)])
def test_a_slice_has_32_draws_or_one_image(ticket: Ticket, draws: int, largest: int, slices: int) -> None:
    scorer = Counting()
    found = score_in_slices(cast(Scorer, scorer), PIXELS, draws, ticket)
    assert found == list(range(130))
    assert (max(scorer.asked), len(scorer.asked)) == (largest, slices)


def test_the_rest_is_not_done_when_nobody_waits(ticket: Ticket) -> None:
    class Leaving(Counting):
        def score_each(self, pixels: Any, draws: int = 1, *, thorough: bool = False) -> list[Any]:
            ticket.future.cancel()
            return super().score_each(pixels, draws)

    scorer = Leaving()
    with pytest.raises(Abandoned):
        score_in_slices(cast(Scorer, scorer), PIXELS, 64, ticket)
    assert scorer.asked == [64]
