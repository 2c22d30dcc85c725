"""Fair division of a limited capacity among callers, by dynamic thresholds."""

from __future__ import annotations

import threading


class FairShares:
    """Limited capacity, such as upload slots or pixels, of which each caller gets a fair share.

    A caller may hold about as much as remains free.

    A request is admitted where it fits and where the caller afterwards holds at most one unit more than stays free.
    The first caller can get half of the capacity, the next caller half of the rest, and so on. While anything is free,
    a caller that holds nothing gets one unit. No list of callers is needed.

    Methods take constant time and may be called from any thread. Callers that hold nothing take no memory.

    Args:
        capacity: Units to share, such as bytes, places or images.
        alone: Units that a caller may hold while all others hold none, where that is more than half of the capacity:
            the size of the largest single request.
    """

    def __init__(self, capacity: int, alone: int = 0) -> None:
        self.capacity = capacity
        self._alone = min(alone, capacity)
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._free = capacity

    @property
    def free(self) -> int:
        """The number of units of the shared capacity that no caller holds at the moment."""
        return self._free

    def held(self, caller: str) -> int:
        """Return how many units of the shared capacity ``caller`` holds at the moment; 0 if it holds none."""
        return self._held.get(caller, 0)

    def take(self, caller: str, amount: int = 1) -> bool:
        """Reserve ``amount`` units, such as bytes or images, for a caller if its fair share allows it.

        Returns whether the ``amount`` units were reserved.
        """
        _check(amount)
        with self._lock:
            held = self.held(caller) + amount
            free = self._free - amount
            no_others = held + free == self.capacity
            if free < 0 or held > max(free + 1, self._alone if no_others else 0):
                return amount == 0
            self._set(caller, held, free)
            return True

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Release ``amount`` units of the shared capacity that a caller holds.

        Raises ``ValueError`` if the caller holds fewer than ``amount``.
        """
        _check(amount)
        with self._lock:
            held = self.held(caller) - amount
            if held < 0:
                raise ValueError(f"expected at most {held + amount} units to come back from {caller!r}, got {amount}")
            self._set(caller, held, self._free + amount)

    def _set(self, caller: str, held: int, free: int) -> None:
        self._free = free
        if held:
            self._held[caller] = held
        else:
            self._held.pop(caller, None)


def _check(amount: int) -> None:
    if amount < 0:
        raise ValueError(f"expected an amount of 0 or more units, got {amount}")
