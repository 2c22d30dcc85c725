import logging
import math
import threading
from collections.abc import Callable

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerDown
from snf_worker.jobs.worker_registry import WorkerRegistry
from snf_worker.runtime.worker_name import worker_name
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

_EVERY_S = 15.0
"""Pause between two probes, so that a loaded machine has time to recover."""
_MISSES = 4
"""Missed probes in a row after which a process hangs: a minute or more without any answer."""
_MISSES_AT_START = 40
"""The same for a process that has not answered yet: ten minutes or more, as it may import from a slow disk."""

Probe = Callable[[int], bool]
"""A function that is called with a process id and returns whether that process answers."""


class HangWatch:
    """Thread that counts missed probes in a row, not seconds: a suspended machine must not count."""

    def __init__(self, pid: int, probe: Probe, patience_s: float = 0.0) -> None:
        self.pid = pid
        self._probe = probe
        self._most = max(_MISSES, math.ceil(patience_s / _EVERY_S))
        self._answered = False
        self._misses = 0
        self._stop = threading.Event()
        # A daemon, so that a probe in progress does not delay the end of the launcher.
        self._thread = threading.Thread(target=self._loop, name=f"hang-watch-{pid}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after its current check of the process; return without waiting for it."""
        self._stop.set()

    @property
    def hung(self) -> str | None:
        """Phrase such as ``has not answered 4 times in a row``, or None if the process does not hang."""
        misses = self._misses
        if misses < (self._most if self._answered else max(self._most, _MISSES_AT_START)):
            return None
        return f"has not answered {misses} times in a row"

    def check(self) -> None:
        """Check once whether the watched process answers, and update the count of missed probes in a row."""
        try:
            answers = self._probe(self.pid)
        except Exception:
            # A fault of the probe must not end a sound process.
            log.exception("process %d could not be probed", self.pid)
            return
        if answers:
            self._answered, self._misses = True, 0
        else:
            self._misses += 1

    def _loop(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.check()


def worker_probe(settings: Settings) -> Probe:
    """Return a probe of a worker's registry entry; in an outage workers count as alive, as they cannot renew it."""

    def probe(pid: int) -> bool:
        client = redis_client(settings)
        registry = WorkerRegistry(client, settings.key_prefix)
        try:
            if registry.announced(worker_name(pid)):
                return True
            registry.require_writable()
            return False
        except BrokerDown:
            return True
        finally:
            client.close()

    return probe


def broker_probe(broker: EmbeddedBroker) -> Probe:
    """Return a probe of the server by PING; the broker's process, which replaces a hanging server, may hang too."""

    def probe(_pid: int) -> bool:
        # On a full disk the process waits for room without a server.
        return broker.alive() or not broker.reserve.has_room()

    return probe
