"""Whether the job store answers and what waits in it, looked at in the background: nobody waits for one that hangs."""

from __future__ import annotations

import threading
import time

from worker.errors import BrokerDown
from worker.jobs.record import Queue
from worker.jobs.store import JobStore

EVERY_S = 0.5
STALE_S = 3.0
"""Age of the last sign of life at which a store that has neither answered nor failed counts as down."""
COUNT_EVERY = 10
"""Signs of life between two counts of the jobs that wait."""


class JobStoreMonitor:
    """Pings the job store again and again in a thread."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._alive_at: float | None = None
        self._waiting: dict[Queue, int] = {}
        self._stop = threading.Event()
        # A daemon: a ping that hangs must not hold up the end of the process.
        self._thread = threading.Thread(target=self._loop, name="job-store-watch", daemon=True)

    @property
    def answers(self) -> bool:
        """Whether the store answered lately; never blocks."""
        alive_at = self._alive_at
        return alive_at is not None and time.monotonic() - alive_at < STALE_S

    @property
    def waiting(self) -> dict[Queue, int]:
        """Jobs that waited in each queue a few seconds ago; empty while the store does not answer. Never blocks."""
        return self._waiting if self.answers else {}

    def start(self) -> None:
        """Starts to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends looking after the ping in progress, without waiting for it."""
        self._stop.set()

    def _loop(self) -> None:
        looks = 0
        while not self._stop.is_set():
            try:
                self._store.ping()
                self._alive_at = time.monotonic()
                if looks % COUNT_EVERY == 0:
                    self._waiting = {queue: self._store.waiting(queue) for queue in Queue}
                looks += 1
            except BrokerDown:
                self._alive_at = None
            self._stop.wait(EVERY_S)
