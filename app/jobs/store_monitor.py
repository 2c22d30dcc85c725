"""Background monitoring of the job store, so that no request has to wait for an unresponsive Redis."""

from __future__ import annotations

import logging
import threading
import time

from worker.errors import BrokerDown
from worker.jobs.store import JobStore
from worker.queues import Queue

log = logging.getLogger(__name__)

PING_S = 0.5
"""Seconds between two pings."""
STALE_S = 3.0
"""Seconds without an answer after which the store counts as down."""
COUNT_EVERY = 10
"""Pings between two counts of the waiting jobs."""


class JobStoreMonitor:
    """Background thread that checks whether the job store (Redis) answers, and counts the waiting jobs.

    It pings Redis every 0.5 s, and counts the jobs at every tenth ping.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._alive_at: float | None = None
        self._waiting: dict[Queue, int] = {}
        self._stop = threading.Event()
        # A daemon, so that a ping that hangs does not delay the end of the process.
        self._thread = threading.Thread(target=self._loop, name="job-store-watch", daemon=True)

    @property
    def answers(self) -> bool:
        """Whether the Redis server of the job store currently answers pings.

        It is true if the newest answer is less than 3 seconds old and no ping has failed since. Reading this never
        blocks.
        """
        alive_at = self._alive_at
        return alive_at is not None and time.monotonic() - alive_at < STALE_S

    @property
    def waiting(self) -> dict[Queue, int]:
        """The number of waiting jobs in each worker queue, as a dictionary by queue.

        The jobs are counted about every 5 s. The dictionary is empty before the first count and while Redis is down.
        """
        return self._waiting if self.answers else {}

    def start(self) -> None:
        """Start the background thread that pings Redis and counts the waiting jobs."""
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
                    self._waiting = {queue: self._store.lines.length(queue) for queue in Queue}
                pings += 1
            except BrokerDown:
                self._alive_at = None
            except Exception:
                # Such as a Redis that refuses a command. Without this thread the store would be down until a restart.
                self._alive_at = None
                log.exception("the job store could not be checked")
            self._stop.wait(PING_S)
