"""Tiles of one size, for tests that are not about the fastest size: to measure it, a model is compiled three times."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

FOUR = 4


@contextmanager
def tiles_of_four() -> Iterator[None]:
    """Tiles of four images, or of the most that the engine allows if that is less, without a measurement."""

    def four(wave: Callable[[int], object], sizes: Sequence[int]) -> int:
        tile = min(FOUR, max(sizes))
        wave(tile)  # it is compiled by this call
        return tile

    module = "snf_runtime.scoring.engines.openvino_compile"
    with patch(f"{module}.fastest_tile", four), patch(f"{module}.seconds", lambda _work: 0.1):
        yield
