from __future__ import annotations

from typing import Literal, get_args

Role = Literal["read", "score", "train", "admin"]

ROLES: tuple[Role, ...] = get_args(Role)
"""All roles in ascending order; each role includes the permissions of those before it."""


def includes(held: Role, needed: Role) -> bool:
    return ROLES.index(held) >= ROLES.index(needed)
