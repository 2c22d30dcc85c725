"""Rate limits of keys, counted in this service process."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.types import Scope

from app.access.key_ring import HeldKey
from app.http.errors import Problem

ALLOWANCE = "snf.allowance"
"""Where authentication leaves the `Allowance` of a request's key in its scope."""


class RateLimits:
    """Counts what keys use in sliding windows; a few counters a key."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, key: HeldKey, unit: str, rate: str | None, amount: int) -> None:
        """Use ``amount`` of a rate such as ``600/minute``; raise a 429 problem where that much is not left."""
        if rate is None:
            return
        limit = parse(rate)
        if amount > limit.amount:
            raise Problem(
                422,
                "larger-than-rate-limit",
                "The request is larger than the rate limit",
                f"it has {amount} {unit}, and the key {key.name!r} allows {rate}; send fewer at once",
                extensions={"limit": rate, "unit": unit},
            )
        if self._limiter.hit(limit, key.id, unit, cost=amount):
            return
        wait = max(1, math.ceil(self._limiter.get_window_stats(limit, key.id, unit).reset_time - time.time()))
        raise Problem(
            429,
            "rate-limited",
            "Over the rate limit of the key",
            f"the key {key.name!r} allows {rate} {unit}; try again in {wait} s",
            headers={"Retry-After": str(wait)},
            extensions={"limit": rate, "unit": unit},
        )


@dataclass(frozen=True)
class Allowance:
    """What the key of a request may still use."""

    key: HeldKey
    limits: RateLimits

    def take_request(self) -> None:
        """Count a request; raise a 429 problem where it is one too many."""
        self.limits.take(self.key, "requests", self.key.requests, 1)

    def take_images(self, count: int) -> None:
        """Count images; raise a 429 problem where they are too many, 422 where they always will be."""
        self.limits.take(self.key, "images", self.key.images, count)


def take_images(scope: Scope, count: int) -> None:
    """Count images that a request has scored or drawn against the limit of its key, if it has one."""
    allowance = scope.get(ALLOWANCE)
    if isinstance(allowance, Allowance):
        allowance.take_images(count)
