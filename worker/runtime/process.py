"""A training process: started in its own process group, asked to stop, killed after a grace."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, StrEnum
from pathlib import Path

from worker.queues import JobType
from worker.runtime.lifeline import Lifeline, child_environment


class ExitCode(IntEnum):
    """ExitCode codes of a trainer; any other one means that it died and is tried again."""

    DONE = 0
    REFUSED = 65  # a cause that another attempt cannot change; the last `error` event names it
    PREEMPTED = 75
    CANCELLED = 76
    STALE = 77  # a newer attempt owns the job


class StopReason(StrEnum):
    """Why a trainer is asked to stop; decides how it exits."""

    CANCEL = "c"
    PREEMPT = "p"


MODULES: dict[JobType, str] = {
    "train": "worker.attempts.train",
    "score": "worker.attempts.score",
    "calibrate": "worker.attempts.calibrate",
    "evaluate": "worker.attempts.evaluate",
}

Command = Callable[[Path, JobType], list[str]]


def attempt_command(folder: Path, type: JobType) -> list[str]:
    """The command that does the job in `folder`."""
    return [sys.executable, "-m", MODULES[type], str(folder)]


class AttemptProcess:
    """A running trainer; its output goes to `trainer.log` in the job's folder."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        lifeline = Lifeline()
        try:
            with (folder / "trainer.log").open("ab") as output:
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
        except BaseException:
            lifeline.close()
            raise
        finally:
            lifeline.passed()
        self._lifeline = lifeline
        self._kill_at: float | None = None
        self.pid = self._process.pid

    @property
    def stopping(self) -> bool:
        """Whether the trainer was asked to stop."""
        return self._kill_at is not None

    def wait(self, timeout: float) -> int | None:
        """Waits up to `timeout` seconds; answers the exit code, negative for a signal, None while it runs."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self.kill()
            return None

    def stop(self, reason: StopReason, grace_s: float) -> None:
        """Asks the trainer to checkpoint and exit; `wait` kills it after `grace_s` seconds."""
        if self._process.poll() is not None:
            return
        self._kill_at = time.monotonic() + grace_s
        self._lifeline.send(reason.value.encode())
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kills the whole process group at once."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kills what is left of the process group and closes the lifeline."""
        # Also after the trainer's own end: a helper process of it must not outlive the attempt.
        with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._lifeline.close()


def assistant_command(folder: Path) -> list[str]:
    """The command that takes shards of the bulk job in `folder` beside the attempt that owns it."""
    return [sys.executable, "-m", MODULES["score"], str(folder), "--assist"]


def explain_exit(code: int) -> str:
    """What an exit code of a trainer that died means, for a person."""
    if code == -signal.SIGKILL:
        return "killed, likely out of memory: a smaller batch_size or preset needs less"
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"ended with exit code {code}"
