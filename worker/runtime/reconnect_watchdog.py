"""The watchdog: it detects a worker that no longer receives messages, and reconnects or ends it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from worker.broker.celery_app import queue_keys
from worker.errors import BrokerDown
from worker.jobs.store import JobStore
from worker.queues import Queue
from worker.settings import Settings

log = logging.getLogger(__name__)

_RECONNECTING_S = 8.0
"""Shortest patience in seconds: Celery's own reconnection may take a few seconds."""


class Watchdog:
    """Thread that detects when a worker no longer receives messages.

    It reconnects the worker, and ends it if that does not help.

    A worker without a task whose queues hold messages for twice ``dispatch_seconds`` does not receive. After that time
    ``reconnect`` is called, and after the same time again ``give_up``.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        queues: Sequence[Queue],
        reconnect: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._store = store
        self._keys = [key for queue in queues for key in queue_keys(settings, queue)]
        self._patience_s = max(2 * settings.dispatch_seconds, _RECONNECTING_S)
        self._every_s = settings.heartbeat_seconds
        self._reconnect = reconnect
        self._give_up = give_up
        self._lock = threading.Lock()
        self._in_hand = False
        self._waits_since: float | None = None
        self._reconnected = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    @property
    def receiving(self) -> bool:
        """Whether the worker receives the messages of its queues.

        The value is False after a reconnection, until a message arrives or none waits.
        """
        return not self._reconnected

    @contextmanager
    def delivery(self) -> Iterator[None]:
        """Context manager that marks the worker as busy while it handles a received message."""
        self._begin(in_hand=True)
        try:
            yield
        finally:
            self._begin(in_hand=False)

    def start(self) -> None:
        """Start the thread, which checks every ``heartbeat_seconds`` whether the worker receives messages."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread that checks the worker; wait for its end, but no longer than 10 s."""
        self._stop.set()
        self._thread.join(timeout=10)

    def check(self, now: float) -> None:
        """Check whether messages wait too long while the worker is idle; if so, reconnect or end the worker.

        If messages wait too long (60 s by default), the worker is reconnected. If that did not help, the worker is
        ended.

        ``now`` is in seconds of the monotonic clock. Too long is twice ``dispatch_seconds``, and at least 8 s.
        """
        try:
            waiting = self._store.lines.message_count(self._keys)
        except BrokerDown:
            waiting = 0  # nothing can be received in an outage
        with self._lock:
            if self._in_hand or not waiting:
                self._waits_since, self._reconnected = None, False
                return
            if self._waits_since is None:
                self._waits_since = now
            if now - self._waits_since < self._patience_s:
                return
            first_time, self._reconnected, self._waits_since = not self._reconnected, True, now
        if first_time:
            log.error("%d messages wait and none was received for %g s: reconnecting", waiting, self._patience_s)
            self._reconnect()
        else:
            log.critical("%d messages wait and reconnecting did not help: ending this worker", waiting)
            self._give_up()

    def _begin(self, *, in_hand: bool) -> None:
        with self._lock:
            self._in_hand, self._waits_since, self._reconnected = in_hand, None, False

    def _loop(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.check(time.monotonic())
            except Exception:
                # The thread must survive a bug in one check.
                log.exception("the watchdog failed")
