"""Long computations that are split into steps, so that their thread can do other work in between."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Generator that yields between the steps of a computation and returns its result."""

STEP = 32
"""Dequantised images in a step, unless they are large."""
STEP_PIXELS = STEP * 128 * 128
"""Pixels in a step."""


def step_size(pixels: int, threads: int = 1) -> int:
    """Return how many images to compute before a pause for other work.

    The number is from 1 to 32, and is smaller for images of more pixels.

    Args:
        pixels: Pixels of an image, H·W.
        threads: The number of threads.

    >>> step_size(28 * 28), step_size(256 * 256), step_size(1024 * 1024)
    (32, 8, 1)
    >>> step_size(1024 * 1024, threads=4)
    4
    """
    return min(STEP, max(1, threads, STEP_PIXELS // pixels))


def finish(steps: Steps[T]) -> T:
    """Run a generator to its end and return its result.

    What it yields is ignored. The result is the value of its ``return`` statement.
    """
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
