"""Callbacks of an engine of bulk scoring: requests to stop, progress and notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Callbacks:
    """Functions that a bulk scoring job calls to ask whether to stop, and to report progress and delays.

    An engine calls these functions while it scores, in the thread of its ``run``. None of them may take long.

    Attributes:
        should_stop: Called several times a second, or before every batch; where it returns true, scoring stops.
        advance: Called with the number of images that were scored since the last call. It is negative where a part has
            to be scored again.
        part_written: Called with the number of images of a part whose file is written.
        notice: Called with a sentence for the user on why nothing is scored for now.
    """

    should_stop: Callable[[], bool] = lambda: False
    advance: Callable[[int], None] = lambda _images: None
    part_written: Callable[[int], None] = lambda _images: None
    notice: Callable[[str], None] = lambda _sentence: None
