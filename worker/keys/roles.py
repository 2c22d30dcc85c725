"""Roles of API keys, ordered from ``read`` to ``admin``."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["read", "score", "train", "admin"]

ROLES: tuple[Role, ...] = get_args(Role)
"""All roles in ascending order; each role includes the permissions of those before it."""


def includes(held: Role, needed: Role) -> bool:
    """Return whether the role ``held`` has all permissions of the role ``needed``.

    In ascending order, the roles are read, score, train and admin.
    """
    return ROLES.index(held) >= ROLES.index(needed)
