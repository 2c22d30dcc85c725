import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from snf_runtime.parallelism import thread_count
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerDown
from snf_worker.jobs.worker_registry import WorkerRegistry
from snf_worker.runtime.machine import worker_name
from snf_worker.runtime.parent_death import ParentDeathPipe, child_environment
from snf_worker.settings import Settings

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


log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_HEALTHY_S = 60.0
_LARGEST_OUTPUT = 5_000_000


class ChildProcess:
    """Module that runs as a child process and is restarted when it ends or hangs, after 0.5 s up to 30 s."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Settings,
        variables: Mapping[str, str] | None = None,
        probe: Probe | None = None,
        beats: bool = False,
        patience_s: float = 0.0,
    ) -> None:
        self.name = name
        self.deaths = 0  # in a row, each soon after a start
        self._module = module
        self.settings = settings
        self._variables = dict(variables or {})
        self._probe = probe
        self._beats = beats
        # A process that was asked to stop may take as long as that, and does not answer meanwhile.
        self._patience_s = max(patience_s, settings.kill_after_seconds)
        self._watch: HangWatch | None = None
        self._output = settings.logs_dir / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: ParentDeathPipe | None = None
        self._started = 0.0
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process in a session of its own, which Ctrl-C in the terminal does not reach."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._limit_output()
        lifeline = ParentDeathPipe()
        with lifeline.passed(), self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "snf_worker.runtime.parent_death", self._module],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(self.settings.environment(), self._variables, lifeline.environment),
                cwd=Path(__file__).resolve().parents[2],
                pass_fds=[lifeline.fd],
                start_new_session=True,
            )
        self._lifeline = lifeline
        self._started = time.monotonic()
        self._restart_at = None
        self._begin_watch(self._process.pid)

    def restart_if_dead(self) -> str | None:
        """Restart a dead process after its pause, or kill one that hangs; never wait; return a message or None."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now < self._restart_at:
                return None
            try:
                self.start()
            except OSError as error:  # such as no memory for another process, which may be there later
                self._restart_at = now + _LONGEST_PAUSE_S
                return f"{self.name} cannot be started: {error.strerror}; trying again in {_LONGEST_PAUSE_S:g} s"
            return f"{self.name} started again"
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._limit_output()
            return self._kill_if_hung(self._process)
        code = self._process.returncode
        self._forget()
        self.deaths = 1 if now - self._started > _HEALTHY_S else self.deaths + 1
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.deaths - 1))
        self._restart_at = now + pause
        end = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"{self.name} ended {end}, see {self._output}; starting it again in {pause:g} s"

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process without waiting for its end, and cancel a planned restart."""
        self._restart_at = None
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the process to exit, and kill it at ``deadline`` of ``time.monotonic()``."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def output_tail(self) -> str:
        """Return the path of the output and the last 15 lines that the process printed."""
        if not self._output.exists():
            return f"{self.name} left no output"
        lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join([f"last lines of {self._output}:", *(f"  {line}" for line in lines)])

    def _limit_output(self) -> None:
        """Empty the file of the output when it is large. The process appends, so that it goes on at the start."""
        with suppress(FileNotFoundError):
            if self._output.stat().st_size > _LARGEST_OUTPUT:
                os.truncate(self._output, 0)

    def _begin_watch(self, pid: int) -> None:
        probe, lifeline = self._probe, self._lifeline
        if self._beats and lifeline is not None:
            probe = lambda _pid: lifeline.has_beaten()  # noqa: E731
        if probe is not None:
            self._watch = HangWatch(pid, probe, self._patience_s)
            self._watch.start()

    def _kill_if_hung(self, process: subprocess.Popen[bytes]) -> str | None:
        hung = self._watch.hung if self._watch is not None else None
        if hung is None:
            return None
        process.kill()
        self._end_watch()
        # Its end is found at a later call. A process that the system cannot end at once is killed again.
        self._begin_watch(process.pid)
        return f"{self.name} {hung} and is killed"

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _forget(self) -> None:
        self._end_watch()
        self._process = None
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None


def share_threads(workers: Sequence[ChildProcess], *, beside_service: bool) -> None:
    """Divide the threads of ``OMP_NUM_THREADS``, or the cores, among workers; a service beside them keeps half."""
    # The service may use all cores: it computes in bursts. A training of as many threads would wait for each of them.
    count = max(1, thread_count(None) // (len(workers) * (2 if beside_service else 1)))
    for process in workers:
        process._variables["OMP_NUM_THREADS"] = str(count)


def restart_dead(processes: Sequence[ChildProcess], echo: Callable[[str], None]) -> None:
    for process in processes:
        message = process.restart_if_dead()
        if message is not None:
            log.warning(message)
            echo(message)


def stop_all(processes: Sequence[ChildProcess], deadline: float) -> None:
    """Stop processes by SIGTERM and wait; kill those that run at ``deadline`` of ``time.monotonic()``."""
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.end(deadline)
