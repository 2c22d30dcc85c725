"""Back-off of addresses that show wrong keys, with bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.access.callers import network_of

FREE = 10
"""Wrong keys after which an address has to wait."""
WINDOW_S = 60.0
"""Time without a wrong key after which an address is forgotten."""
LONGEST_S = 60.0
"""Longest wait; it starts with a second and doubles with every further wrong key."""
MOST = 4096
"""Addresses, and keys of addresses, that are remembered; the one unused for the longest time goes first."""


@dataclass
class Attempts:
    """What is known of one address."""

    wrong: int = 0
    unreported: int = 0
    blocked_until: float = 0.0
    forget_at: float = 0.0


class FailedAttempts:
    """Counts wrong keys by address, that of a network of 64 bits for IPv6, which one machine may have to itself.

    A key that was right from an address stays usable from there while others are held off.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, Attempts] = OrderedDict()
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, digest: str) -> float:
        """Return how long an address has to wait before a key with this digest is looked at; 0 where it need not."""
        known = self._addresses.get(network_of(address))
        if known is None or (address, digest) in self._right:
            return 0.0
        return max(0.0, known.blocked_until - self._clock())

    def failed(self, address: str, digest: str) -> Attempts:
        """Count a wrong key; return what is known of its address by now."""
        self._right.pop((address, digest), None)
        now = self._clock()
        network = network_of(address)
        known = self._addresses.pop(network, None)
        if known is None or known.forget_at <= now:
            known = Attempts()
        known.wrong += 1
        known.unreported += 1
        if known.wrong >= FREE:
            known.blocked_until = now + min(LONGEST_S, 2.0 ** min(known.wrong - FREE, 30))
        known.forget_at = max(now, known.blocked_until) + WINDOW_S
        _remember(self._addresses, network, known)
        return known

    def held_off(self, address: str) -> None:
        """Count a key that was not looked at."""
        known = self._addresses.get(network_of(address))
        if known is not None:
            known.unreported += 1

    def succeeded(self, address: str, digest: str) -> None:
        """Note that a key was right from an address."""
        self._right.pop((address, digest), None)
        _remember(self._right, (address, digest), None)


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    if len(memory) > MOST:
        memory.popitem(last=False)
