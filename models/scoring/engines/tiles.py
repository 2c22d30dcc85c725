"""How many images are computed at once: measured once a machine and model, never chosen by a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.atomic_files import write_atomically

log = logging.getLogger(__name__)

DEFAULT_TILE = 4
"""Where nothing was measured. On a CPU the hidden activations of a coupling net of width 512 then stay in cache."""
CANDIDATES = (1, 4, 16)
"""Few, because each is compiled at the first load: for large images, for large nets, and for small ones."""
GAIN = 1.03
"""A larger tile must be faster by this factor: it costs more memory, and more where it is not filled."""
HOPELESS = 4.0
"""A tile that takes this many times as long an image as the best is not tried again."""
ROUNDS, SECONDS = 7, 2.0
"""Candidates take so many turns, or as many as there is time for: a machine has other work, and it passes."""


class Tiling(BaseModel):
    """``wave`` seconds for ``lanes`` tiles of ``tile`` images side by side, ``single`` seconds for one image.

    >>> Tiling(tile=4, lanes=2, wave=0.1, single=0.016).waves(23)
    3
    >>> Tiling(tile=4, lanes=2, wave=0.1, single=0.016).waves(17)
    2
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tile: int = Field(ge=1, le=1024)
    lanes: int = Field(ge=1, le=1024)
    wave: float = Field(gt=0, description="Seconds.")
    single: float = Field(gt=0, description="Seconds.")

    def waves(self, images: int) -> int:
        """Return in how many waves to compute ``images``, the last of which may not be full; the rest one by one."""
        full, rest = divmod(images, self.tile * self.lanes)
        return full + (rest * self.single > self.wave)


def unmeasured(lanes: int) -> Tiling:
    """Return the tiling where nothing was measured: images one by one cost a tenth more than in a full wave."""
    return Tiling(tile=DEFAULT_TILE, lanes=lanes, wave=1.0, single=1.1 / (DEFAULT_TILE * lanes))


def fastest_tile(run: Callable[[int], Callable[[], object]], candidates: Iterable[int] = CANDIDATES) -> int:
    """Return the smallest tile that is about the fastest; ``run(tile)`` prepares, what it returns computes a wave."""
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
    return next(tile for tile, found in least.items() if found <= GAIN * min(least.values()))


def seconds(work: Callable[[], object]) -> float:
    """Return the least time of a few runs after one that warms up: what disturbs a measurement only adds to it."""
    work()
    return min(_once(work) for _ in range(ROUNDS))


def _once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def stored_tiling(path: Path, lanes: int) -> Tiling | None:
    """Return what was measured before for this number of lanes, None where nothing was or it cannot be read."""
    try:
        found = Tiling.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("the measured tile in %s cannot be read and is measured again: %s", path.name, error)
        return None
    return found if found.lanes == lanes else None


def store_tiling(path: Path, tiling: Tiling) -> None:
    """Write what was measured; a cache that cannot be written costs time at the next load, and nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, tiling.model_dump_json().encode())
    except OSError as error:
        log.warning("the measured tile cannot be kept in %s: %s", path.name, error.strerror)
