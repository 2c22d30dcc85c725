"""Long computations that are split into steps, so that their thread can do other work in between."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

from snf_runtime.scoring.engines.tiles import TILE_PIXELS, largest_tile

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Generator that yields between the steps of a computation and returns its result."""

STEP, STEP_PIXELS = 32, 32 * 128 * 128
"""Largest number of images in a step, and of their pixels, unless the tiles of all threads have more."""


def step_size(pixels: int, threads: int) -> int:
    """Return the images of a step: they fill the tiles of all threads, or are fewer where they are very large.

    >>> step_size(28 * 28, 2), step_size(224 * 224, 2), step_size(224 * 224, 16), step_size(1024 * 1024, 2)
    (32, 8, 64, 1)
    """
    wave = max(1, min(threads * largest_tile(pixels), threads * TILE_PIXELS // pixels))
    return wave * max(1, min(STEP, STEP_PIXELS // pixels) // wave)


def finish(steps: Steps[T]) -> T:
    """Run a generator to its end, ignore what it yields, and return the value of its ``return``."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
