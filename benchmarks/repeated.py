"""Work that a thread repeats beside a benchmark."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class Repeated(ABC):
    """A thread that takes one turn after the other while a ``with`` block runs.

    Args:
        pause_s: Seconds before each turn.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def turn(self) -> None:
        """Do the work once."""

    def _loop(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.turn()
