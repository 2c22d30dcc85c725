"""Rate limits of API keys, counted in the memory of this process."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

from snf_app.access.key_ring import HeldKey
from snf_app.http.errors import Problem

ALLOWANCE = "snf.allowance"
"""Key of a request's scope that holds the ``Allowance`` of its API key."""


class RateLimits:
    """Counters of requests and images of each API key, over sliding time windows."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, key: HeldKey, unit: str, rate: str | None, amount: int) -> None:
        """Count an amount against a rate such as ``600/minute``; raise 429, or 422 if the amount exceeds it alone."""
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

    def headers(self, key: HeldKey) -> dict[str, str]:
        """Return ``RateLimit-Policy`` and ``RateLimit`` of draft-ietf-httpapi-ratelimit-headers-10, if any."""
        policies, states = [], []
        for unit, rate in (("requests", key.requests), ("images", key.images)):
            if rate is not None:
                limit = parse(rate)
                window = self._limiter.get_window_stats(limit, key.id, unit)
                reset = max(0, math.ceil(window.reset_time - time.time()))
                policies.append(f'"{unit}";q={limit.amount};w={limit.get_expiry()}')
                states.append(f'"{unit}";r={window.remaining};t={reset}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}


@dataclass(frozen=True)
class Allowance:
    """Rate limits of a request's API key, with methods to count the request and its images."""

    key: HeldKey
    limits: RateLimits

    def take_request(self) -> None:
        """Count one request of the API key; raise a 429 ``Problem`` past its limit, such as 600 per minute."""
        self.limits.take(self.key, "requests", self.key.requests, 1)

    def take_images(self, count: int) -> None:
        """Count a request's images; raise 429 past the limit, or 422 if they alone exceed it."""
        self.limits.take(self.key, "images", self.key.images, count)


def with_headers(scope: Scope, send: Send) -> Send:
    """Return a ``send`` that adds the rate-limit headers of a request's API key to its answer."""
    allowance = scope.get(ALLOWANCE)
    if not isinstance(allowance, Allowance):
        return send

    async def limited(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(allowance.limits.headers(allowance.key))
        await send(message)

    return limited


def take_images(scope: Scope, count: int) -> None:
    """Count a request's images against the rate of its key, if it has one; raise 429 or 422."""
    allowance = scope.get(ALLOWANCE)
    if isinstance(allowance, Allowance):
        allowance.take_images(count)
