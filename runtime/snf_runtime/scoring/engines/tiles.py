"""Measurement of the tile size, the number of images computed at once, once for each machine and model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

DEFAULT_TILE = 4
"""Tile size without a measurement; hidden activations of a coupling network of width 512 then fit in CPU caches."""
CANDIDATES = (1, 4, 16)
"""Tile sizes that are measured: few, because each is compiled at the first load."""
TILE_PIXELS = 16 * 128 * 128
"""Largest number of pixels in a tile of several images. Other work waits while a thread computes a tile."""
GAIN = 1.03
"""Factor by which a larger tile must be faster, since it needs more memory and wastes more if it is not full."""
HOPELESS = 4.0
"""A tile size that is slower than the best by this factor is not measured again."""
MAX_AT_ONCE = 1024
"""Largest tile, and most threads."""
ROUNDS, SECONDS = 7, 2.0
"""Largest number of measurements of each tile size, and the time after which they end."""


@dataclass(frozen=True)
class Tiling:
    """Images that a thread computes in a run, with the seconds of ``lanes`` tiles in parallel and of one image.

    >>> Tiling(tile=4, lanes=2, wave=0.1, single=0.016).waves(23)
    3
    >>> Tiling(tile=4, lanes=2, wave=0.1, single=0.016).waves(17)
    2
    """

    tile: int
    lanes: int
    wave: float
    single: float

    def __post_init__(self) -> None:
        for name, count in (("tile", self.tile), ("lanes", self.lanes)):
            if type(count) is not int or not 1 <= count <= MAX_AT_ONCE:
                raise ValueError(f"expected a {name} of 1 to {MAX_AT_ONCE}, a whole number, got {count!r}")
        for name, time_taken in (("wave", self.wave), ("single", self.single)):
            if type(time_taken) is not float or not (math.isfinite(time_taken) and time_taken > 0):
                raise ValueError(f"expected a {name} of more than 0 s, a float, got {time_taken!r}")

    def waves(self, images: int) -> int:
        """Return how many full runs to compute images in; the rest is computed one by one if that is faster."""
        full, rest = divmod(images, self.tile * self.lanes)
        return full + (rest * self.single > self.wave)


def largest_tile(pixels: int) -> int:
    """Return 1, 4 or 16 images of ``pixels`` pixels: several have at most 262,144 together.

    >>> largest_tile(28 * 28), largest_tile(256 * 256), largest_tile(1024 * 1024)
    (16, 4, 1)
    """
    return max(tile for tile in CANDIDATES if tile == 1 or tile * pixels <= TILE_PIXELS)


def unmeasured(lanes: int, tile: int = DEFAULT_TILE) -> Tiling:
    """Return assumed times, in which an image alone takes a tenth more than in a full wave."""
    return Tiling(tile=tile, lanes=lanes, wave=1.0, single=1.1 / (tile * lanes))


def fastest_tile(run: Callable[[int], Callable[[], object]], candidates: Iterable[int]) -> int:
    """Return the first candidate whose time per image is within 3 % of the best."""
    works = {tile: run(tile) for tile in candidates}
    least: dict[int, float] = {}
    for tile, work in works.items():
        work()
        least[tile] = _once(work) / tile
    began = time.perf_counter()
    for _ in range(ROUNDS):
        if time.perf_counter() - began > SECONDS:
            break
        for tile, work in works.items():
            if least[tile] <= HOPELESS * min(least.values()):
                least[tile] = min(least[tile], _once(work) / tile)
    return next(tile for tile, time_per_image in least.items() if time_per_image <= GAIN * min(least.values()))


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest of 7 run times, after a run that is not timed."""
    work()
    return min(_once(work) for _ in range(ROUNDS))


def _once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
