import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from models.training.cost.throughput import stored_throughput
from snf_runtime.threads import thread_count
from worker.runtime.devices import kind_of, variables
from worker.runtime.lifeline import Lifeline, child_environment
from worker.settings import Settings

log = logging.getLogger(__name__)

_QUIET_S = 60.0
"""Time in seconds that a worker must have been idle, so that a measurement does not slow down a starting service."""
_MAX_LOAD = 0.5
"""Processes that want a core, for each core: above it other work of the machine would falsify a measurement."""
_LONGEST_S = 300.0
_TICK_S = 0.5


def throughput_file(settings: Settings, kind: str) -> Path:
    return settings.home / "cache" / f"throughput-{kind}-{thread_count(settings.train_threads)}.json"


def _load() -> float:
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class ThroughputMeter:
    """Thread that measures the training speed once, while worker and machine are idle for a minute."""

    def __init__(self, settings: Settings, device: str, busy: Callable[[], bool]) -> None:
        self._settings = settings
        self._device = device
        self._file = throughput_file(settings, kind_of(device))
        self._busy = busy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="throughput", daemon=True)

    def start(self) -> None:
        """Start to measure this machine's training speed in a thread; do nothing if a result is stored."""
        if stored_throughput(self._file) is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop the measuring thread, with any measurement in progress, and wait up to 10 s for the thread to end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while self._wait_for_quiet():
            code = self._measure()
            if code is None:
                continue
            if code == 0:
                log.info("the speed of %s is measured; estimates of trainings use it", self._device)
            else:
                log.warning("measuring the speed of %s ended with code %d; estimates assume it", self._device, code)
            return

    def _wait_for_quiet(self) -> bool:
        """Wait until the worker has been idle long enough; return False where it stops first."""
        since = time.monotonic()
        while time.monotonic() - since < _QUIET_S:
            if self._stop.wait(_TICK_S):
                return False
            if self._busy() or _load() > _MAX_LOAD:
                since = time.monotonic()
        return True

    def _measure(self) -> int | None:
        """Return the exit code of a measurement, None where a job or the end of the worker interrupted it."""
        lifeline = Lifeline()
        with lifeline.passed():
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment(variables(self._device), lifeline.environment),
                cwd=Path(__file__).resolve().parents[2],
                pass_fds=[lifeline.fd],
            )
        deadline = time.monotonic() + _LONGEST_S
        try:
            while (code := process.poll()) is None:
                if self._stop.wait(_TICK_S) or self._busy():
                    return None
                if time.monotonic() > deadline:
                    process.kill()
            return code
        finally:
            process.kill()
            process.wait()
            lifeline.close()

    def _command(self) -> list[str]:
        module = ["worker.runtime.lifeline", "models.training.cost.measure"]
        options = ["--device", kind_of(self._device), "--launched", repr(time.monotonic())]
        options += ["--threads", str(thread_count(self._settings.train_threads))]
        return [sys.executable, "-m", *module, str(self._file), *options]
