from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Callbacks:
    """Functions that an engine calls in the thread of its ``run``; none may take long."""

    should_stop: Callable[[], bool] = lambda: False  # called several times a second, or before every batch
    advance: Callable[[int], None] = lambda _images: None  # images scored since the last call, or lost if negative
    part_written: Callable[[int], None] = lambda _images: None  # images of the part
    notice: Callable[[str], None] = lambda _sentence: None  # why nothing is scored for now
