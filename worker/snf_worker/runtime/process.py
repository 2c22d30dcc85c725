import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, StrEnum
from pathlib import Path

from snf_worker.queues import JobType
from snf_worker.runtime.lifeline import Lifeline, child_environment


class ExitCode(IntEnum):
    """Exit codes of an attempt. Any other means that the process died, and the attempt is repeated."""

    DONE = 0
    REFUSED = 65  # another attempt would fail as well; the last `error` event names the cause
    NO_ROOM = 74  # the disk takes no writes, perhaps not even that of an `error` event
    PREEMPTED = 75
    CANCELLED = 76
    STALE = 77  # a newer attempt owns the job


class StopReason(StrEnum):
    """Reason for a request to stop: users cancelled the job, or a later attempt will continue it."""

    CANCEL = "c"
    PREEMPT = "p"


Command = Callable[[Path, JobType], list[str]]


def attempt_command(folder: Path, type: JobType) -> list[str]:
    return [sys.executable, "-m", "snf_worker.attempts.attempt", f"snf_worker.attempts.{type}", str(folder)]


class AttemptProcess:
    """A child process that runs one attempt in its own process group, with its output in ``trainer.log``."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        lifeline = Lifeline()
        with lifeline.passed(), (folder / "trainer.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(environment, lifeline.environment),
                cwd=Path(__file__).resolve().parents[2],
                pass_fds=[lifeline.fd],
                start_new_session=True,
            )
        self._lifeline = lifeline
        self._kill_at: float | None = None
        self.pid = self._process.pid

    @property
    def stopping(self) -> bool:
        return self._kill_at is not None

    def wait(self, timeout: float) -> int | None:
        """Return the exit code, negative for a signal, or None; kill the process after its grace period."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self.kill()
            return None

    def stop(self, reason: StopReason, grace_s: float) -> None:
        """Ask the process to write a checkpoint and exit; ``wait`` kills it after ``grace_s`` seconds."""
        if self._process.poll() is not None:
            return
        self._kill_at = time.monotonic() + grace_s
        self._lifeline.send(reason.value.encode())
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and its child processes at once (SIGKILL)."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill all remaining processes of the job's attempt (SIGKILL), and close the pipe to the child."""
        # Also after a regular end: no child of the process may outlive the attempt.
        with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._lifeline.close()


def assistant_command(folder: Path) -> list[str]:
    return [*attempt_command(folder, "score"), "--assist"]


def explain_exit(code: int) -> str:
    """Return a phrase that explains why a job's process died; a negative code is a signal number."""
    if code == -signal.SIGKILL:
        return "killed, likely out of memory: a smaller batch_size or preset needs less"
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"ended with exit code {code}"
