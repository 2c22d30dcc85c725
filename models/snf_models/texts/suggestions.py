from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

MAX_CHARACTERS = 100
"""Longest name to which another one is sought."""


def closest(name: str, known: Collection[str]) -> str | None:
    """Return the most similar name, or None if none is similar enough.

    >>> closest("max_step", ["max_steps", "seed"]), closest("huge", ["max_steps", "seed"])
    ('max_steps', None)
    """
    # No name is that long, and comparing would take time.
    return next(iter(get_close_matches(name, known, n=1)), None) if len(name) <= MAX_CHARACTERS else None


def choices(name: str, known: Collection[str]) -> str:
    """Return the end of an error text: a similar name, if any, and all names.

    >>> choices("mnist-min", ["mnist", "parts"])
    'did you mean mnist? There are: mnist, parts'
    >>> choices("huge", ["mnist", "parts"])
    'there are: mnist, parts'
    """
    names, meant = ", ".join(known) or "none", closest(name, known)
    return f"there are: {names}" if meant is None else f"did you mean {meant}? There are: {names}"
