import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from snf_worker.broker.celery_app import queue_keys
from snf_worker.errors import BrokerDown
from snf_worker.jobs.store import JobStore
from snf_worker.queues import Queue
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

_RECONNECTING_S = 8.0
"""Shortest patience in seconds: Celery's own reconnection may take a few seconds."""


class Watchdog:
    """Thread that reconnects an idle worker whose queues hold messages for long, and ends it if that fails."""

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
        """Whether messages are received; False after a reconnection until one arrives or none waits."""
        return not self._reconnected

    @contextmanager
    def delivery(self) -> Iterator[None]:
        """Mark the worker as busy during the block, in which it handles a message."""
        self._begin(in_hand=True)
        try:
            yield
        finally:
            self._begin(in_hand=False)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def check(self, now: float) -> None:
        """Reconnect, then end, an idle worker whose messages wait for twice ``dispatch_seconds``, at least 8 s."""
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
