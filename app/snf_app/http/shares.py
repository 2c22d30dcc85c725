from __future__ import annotations

import threading


class FairShares:
    """Capacity of which a caller may hold one unit more than stays free, or ``alone`` while no other holds any."""

    def __init__(self, capacity: int, alone: int = 0) -> None:
        self.capacity = capacity
        self._alone = min(alone, capacity)
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._free = capacity

    @property
    def free(self) -> int:
        return self._free

    def held(self, caller: str) -> int:
        return self._held.get(caller, 0)

    def take(self, caller: str, amount: int = 1) -> bool:
        """Reserve units if the caller's fair share allows it, in constant time and from any thread."""
        _check(amount)
        with self._lock:
            held = self.held(caller) + amount
            free = self._free - amount
            # The first caller can get half of the capacity, the next half of the rest, and so on.
            no_others = held + free == self.capacity
            if free < 0 or held > max(free + 1, self._alone if no_others else 0):
                return amount == 0
            self._set(caller, held, free)
            return True

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Release units; raise ``ValueError`` if the caller holds fewer than ``amount``."""
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
