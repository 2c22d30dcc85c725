"""Monitoring of the job store in a thread, so that no request has to wait for an unresponsive Redis."""

from __future__ import annotations

import logging
import threading
import time

from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore

log = logging.getLogger(__name__)

PING_S = 0.5
STALE_S = 3.0
"""Seconds without an answer after which the store counts as down."""
COUNT_EVERY = 10
"""Pings between two counts of the waiting jobs."""


class JobStoreMonitor:
    """Thread that pings Redis every 0.5 s and counts the waiting jobs at every tenth ping."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._alive_at: float | None = None
        self._waiting: dict[Queue, int] = {}
        self._stop = threading.Event()
        # A daemon, so that a ping that hangs does not delay the end of the process.
        self._thread = threading.Thread(target=self._loop, name="job-store-watch", daemon=True)

    @property
    def answers(self) -> bool:
        """Whether Redis answered less than 3 s ago and no ping has failed since; never blocks."""
        alive_at = self._alive_at
        return alive_at is not None and time.monotonic() - alive_at < STALE_S

    @property
    def waiting(self) -> dict[Queue, int]:
        """The number of waiting jobs by queue; empty before the first count and while Redis is down."""
        return self._waiting if self.answers else {}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the background thread to end after its current ping; return without waiting for it."""
        self._stop.set()

    def _loop(self) -> None:
        pings = 0
        while not self._stop.is_set():
            try:
                self._store.ping()
                self._alive_at = time.monotonic()
                if pings % COUNT_EVERY == 0:
                    self._waiting = {queue: self._store.waiting(queue) for queue in Queue}
                pings += 1
            except BrokerDown:
                self._alive_at = None
            except Exception:
                # Such as a Redis that refuses a command. Without this thread the store would be down until a restart.
                self._alive_at = None
                log.exception("the job store could not be checked")
            self._stop.wait(PING_S)
