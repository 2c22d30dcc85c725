"""Limits on guessing API keys: clients that send wrong keys wait longer with each further attempt."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snf_app.access.callers import network_of

FREE_ATTEMPTS = 10
WINDOW_S = 60.0
"""Seconds without a wrong key after which an address is forgotten."""
MAX_WAIT_S = 60.0
"""Longest wait in seconds; it starts at one second and doubles with every further wrong key."""
MAX_REMEMBERED = 4096
"""Most addresses, and most valid keys of addresses, to remember; the least recently used is dropped first."""


@dataclass
class Attempts:
    """Wrong keys of an IPv4 address or an IPv6 /64 network."""

    wrong: int = 0
    unreported: int = 0  # since the last report in the audit log
    blocked_until: float = 0.0  # on the clock of ``FailedAttempts``, in seconds
    forget_at: float = 0.0


class FailedAttempts:
    """Counter that makes an address wait from the 10th wrong key on; keys valid from there need not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, Attempts] = OrderedDict()
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, digest: str) -> float:
        """Return the seconds until an address's next key may be checked; 0 for a key that was valid from there."""
        known = self._addresses.get(network_of(address))
        if known is None or (address, digest) in self._right:
            return 0.0
        return max(0.0, known.blocked_until - self._clock())

    def failed(self, address: str, digest: str) -> Attempts:
        """Count a wrong API key, which doubles the wait from the 10th on; return the record of the address."""
        self._right.pop((address, digest), None)
        now = self._clock()
        network = network_of(address)
        known = self._addresses.pop(network, None)
        if known is None or known.forget_at <= now:
            known = Attempts()
        known.wrong += 1
        known.unreported += 1
        if known.wrong >= FREE_ATTEMPTS:
            known.blocked_until = now + min(MAX_WAIT_S, 2.0 ** min(known.wrong - FREE_ATTEMPTS, 30))
        known.forget_at = max(now, known.blocked_until) + WINDOW_S
        _remember(self._addresses, network, known)
        return known

    def held_off(self, address: str) -> None:
        """Count a request refused unchecked, for the audit log; the wait stays the same."""
        known = self._addresses.get(network_of(address))
        if known is not None:
            known.unreported += 1

    def succeeded(self, address: str, digest: str) -> None:
        """Record that a key, of which only the digest is stored, is valid from an address."""
        self._right.pop((address, digest), None)
        _remember(self._right, (address, digest), None)


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
