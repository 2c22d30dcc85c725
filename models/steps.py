"""Long computations in steps, between which a thread may do other work."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""A computation that yields between its steps and returns its result."""

STEP = 32
"""Dequantised images that pass the flow in one step, unless they are large."""
STEP_PIXELS = STEP * 128 * 128
"""Pixels in one step."""


def step_size(pixels: int, threads: int = 1) -> int:
    """Return the images of so many pixels in one step: fewer large ones, but one for each thread.

    >>> step_size(28 * 28), step_size(256 * 256), step_size(1024 * 1024)
    (32, 8, 1)
    >>> step_size(1024 * 1024, threads=4)
    4
    """
    return min(STEP, max(1, threads, STEP_PIXELS // pixels))


def finish(steps: Steps[T]) -> T:
    """Return the result of a computation, all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
