"""Python's cyclic garbage collector, told what processes here are like: large, and nearly free of cycles."""

from __future__ import annotations

import atexit
import gc

OBJECTS = 10_000
"""Objects that are made before it looks: until a process is ready it makes half a million that stay, which it looked
through again and again with Python's own 700."""


def relax_gc() -> None:
    """Lets the collector look rarely, and not at all while the process ends: its memory goes with it."""
    gc.set_threshold(OBJECTS, 10, 10)
    atexit.register(gc.freeze)
