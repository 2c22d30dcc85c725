"""Tiles of one size: to measure which one is the fastest, a model is compiled three times and run many times."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from unittest.mock import patch

from snf_runtime.parallelism import fastest_micro_batch, seconds

MODULE = "snf_runtime.scoring.openvino_engine"


@contextmanager
def tiles_of(images: int) -> Iterator[None]:
    """Tiles of that many images, or of the most that the engine allows if that is less, without a measurement."""

    def given(wave: Callable[[int], object], sizes: Sequence[int]) -> int:
        tile = min(images, max(sizes))
        wave(tile)  # it is compiled by this call
        return tile

    times = _Times()
    with patch(f"{MODULE}.fastest_micro_batch", given), patch(f"{MODULE}.seconds", lambda _work: next(times.turns)):
        yield


class _Times(threading.local):
    """Seconds of a wave and, asked for next, of its images one by one.

    More images than half a wave take one more wave, and fewer are computed one by one.
    """

    def __init__(self) -> None:
        self.turns = cycle((0.1, 0.2))


@contextmanager
def measured_tiles() -> Iterator[None]:
    """Tiles of the size that is measured to be the fastest, as users have them."""
    with patch(f"{MODULE}.fastest_micro_batch", fastest_micro_batch), patch(f"{MODULE}.seconds", seconds):
        yield
