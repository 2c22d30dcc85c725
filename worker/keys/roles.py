"""Roles of keys: what their holders may do."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["read", "score", "train", "admin"]

ROLES: tuple[Role, ...] = get_args(Role)
"""From the least to the most; each role may do what the ones before it may."""


def includes(held: Role, needed: Role) -> bool:
    """Return whether a holder of the role ``held`` may do what the role ``needed`` may."""
    return ROLES.index(held) >= ROLES.index(needed)
