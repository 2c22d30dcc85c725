import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from snf_runtime.parallelism import thread_count
from snf_worker.runtime.parent_death import ParentDeathPipe, child_environment
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_HEALTHY_S = 60.0
_LARGEST_OUTPUT = 5_000_000
_EVERY_S = 15.0
"""Pause between two looks for heartbeats, so that a loaded machine has time to recover."""
_MISSES = 4
"""Missed heartbeats in a row after which a process hangs: a minute or more without any."""
_MISSES_AT_START = 40
"""The same for a process that has sent none yet: ten minutes or more, as it may import from a slow disk."""


class HangWatch:
    """Counter of missed heartbeats in a row, not of seconds: a suspended machine must not count."""

    def __init__(self, has_beaten: Callable[[], bool], patience_s: float = 0.0) -> None:
        self._has_beaten = has_beaten
        self._max_misses = max(_MISSES, math.ceil(patience_s / _EVERY_S))
        self.begin()

    def begin(self) -> None:
        """Begin to count, as for a new process."""
        self._answered = False
        self._misses = 0
        self._next = time.monotonic() + _EVERY_S

    def look(self) -> None:
        """Count a missed heartbeat if it is time to look for one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            self.check()

    def check(self) -> None:
        answers = self._has_beaten()
        self._answered = self._answered or answers
        self._misses = 0 if answers else self._misses + 1

    @property
    def hung(self) -> str | None:
        """Phrase such as ``has not answered 4 times in a row``, or None if the process does not hang."""
        limit = self._max_misses if self._answered else max(self._max_misses, _MISSES_AT_START)
        return None if self._misses < limit else f"has not answered {self._misses} times in a row"


class ChildProcess:
    """Module that runs as a child process and is restarted when it ends or hangs, after 0.5 s up to 30 s."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Settings,
        variables: Mapping[str, str] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        self.name = name
        self.deaths = 0  # in a row, each soon after a start
        self._module = module
        self.settings = settings
        self.variables = dict(variables or {})
        # A process that was asked to stop may take as long as that, and does not answer meanwhile.
        self._patience_s = max(patience_s, settings.kill_after_seconds)
        self._output = settings.logs_dir / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: ParentDeathPipe | None = None
        self._watch: HangWatch | None = None
        self._started = 0.0
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process in a session of its own, which Ctrl-C in the terminal does not reach."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._limit_output()
        pipe = ParentDeathPipe()
        with pipe.passed(), self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "snf_worker.runtime.parent_death", self._module],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(self.settings.environment(), self.variables, pipe.environment),
                cwd=Path(__file__).resolve().parents[2],
                pass_fds=[pipe.fd],
                start_new_session=True,
            )
        self._pipe = pipe
        self._watch = HangWatch(pipe.has_beaten, self._patience_s)
        self._started = time.monotonic()
        self._restart_at = None

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
        code = self._process.poll()
        if code is None:
            self._limit_output()
            return self._kill_if_hung(self._process)
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

    def share_threads(self, processes: int) -> None:
        """Limit OpenMP to a share of the threads of ``OMP_NUM_THREADS``, or of the cores."""
        self.variables["OMP_NUM_THREADS"] = str(max(1, thread_count(None) // processes))

    def _limit_output(self) -> None:
        """Empty the file of the output when it is large. The process appends, so that it goes on at the start."""
        with suppress(FileNotFoundError):
            if self._output.stat().st_size > _LARGEST_OUTPUT:
                os.truncate(self._output, 0)

    def _kill_if_hung(self, process: subprocess.Popen[bytes]) -> str | None:
        assert self._watch is not None
        self._watch.look()
        hung = self._watch.hung
        if hung is None:
            return None
        process.kill()
        # Its end is found at a later call. A process that the system cannot end at once is killed again.
        self._watch.begin()
        return f"{self.name} {hung} and is killed"

    def _forget(self) -> None:
        self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


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
