"""Scoring: ``python -m benchmarks.speed score``."""

from __future__ import annotations

from benchmarks.speed.context import Context
from benchmarks.speed.conv_rows import against_authors, stored_log_dets
from benchmarks.speed.glow_rows import glow
from benchmarks.speed.pairing import Target

TITLE = "Scoring speed, side by side"


def measure(context: Context) -> None:
    """Measure all rows."""
    glow(context, "glow-2l-16k", context.glow, (1, 28, 28), at_batch=Target(low=2.4))
    against_authors(context)
    stored_log_dets(context)
    glow(context, "glow-3l-32k", "snf-glow-tiny" if context.quick else "snf-glow-3l-32k", (3, 32, 32), at_batch=None)
