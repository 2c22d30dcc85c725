"""Limits on guessing API keys: clients that send wrong keys wait longer with each further attempt."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.access.callers import network_of

FREE_ATTEMPTS = 10
"""Wrong keys after which an address has to wait."""
WINDOW_S = 60.0
"""Seconds without a wrong key after which an address is forgotten."""
MAX_WAIT_S = 60.0
"""Longest wait in seconds; it starts at one second and doubles with every further wrong key."""
MAX_REMEMBERED = 4096
"""Most addresses, and most valid keys of addresses, to remember; the least recently used is dropped first."""


@dataclass
class Attempts:
    """Count of wrong API keys from one client address, and the time when it may try again.

    The address is an IPv4 address or an IPv6 /64 network.

    Attributes:
        wrong: Wrong keys so far.
        unreported: Attempts since the last report in the audit log.
        blocked_until: End of the wait, on the clock of ``FailedAttempts``, in seconds.
        forget_at: Time at which these attempts are forgotten, in seconds.
    """

    wrong: int = 0
    unreported: int = 0
    blocked_until: float = 0.0
    forget_at: float = 0.0


class FailedAttempts:
    """Counter that makes a client address wait after too many wrong API keys.

    From the 10th wrong key on, the address must wait: 1 s, then 2 s, up to 60 s.

    IPv6 addresses are counted by their /64 network. A key that was valid from an address stays usable from there
    during the wait.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, Attempts] = OrderedDict()
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, digest: str) -> float:
        """Return how many seconds an address must wait before its next API key may be checked.

        Returns 0.0 if the address need not wait.

        A key that was valid from this address before, recognised by its SHA-256 ``digest``, never has to wait.
        """
        known = self._addresses.get(network_of(address))
        if known is None or (address, digest) in self._right:
            return 0.0
        return max(0.0, known.blocked_until - self._clock())

    def failed(self, address: str, digest: str) -> Attempts:
        """Count a wrong API key against the client IP address that sent it.

        From the 10th wrong key on, the address must wait. Each further wrong key doubles the wait, up to 60 s. Returns
        the record of the address.
        """
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
        """Count a request that was refused because its client address must wait after too many wrong API keys.

        The key was not checked. The count is for the audit log and does not change the wait.
        """
        known = self._addresses.get(network_of(address))
        if known is not None:
            known.unreported += 1

    def succeeded(self, address: str, digest: str) -> None:
        """Record that a client address sent a valid API key, so that waits of the address do not apply to this key.

        Only the SHA-256 digest of the key is stored.
        """
        self._right.pop((address, digest), None)
        _remember(self._right, (address, digest), None)


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
