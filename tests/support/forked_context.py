"""Processes of `multiprocessing` and its method "spawn", started as forks by the fork server of the test run."""

import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import get_context, popen_spawn_posix, util
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from unittest.mock import patch

from tests.support.fork_server import fork_server


def forked_context() -> SpawnContext:
    """Return what `multiprocessing.get_context("spawn")` does; on Linux, its processes are forks."""
    return _ForkedContext() if sys.platform == "linux" else get_context("spawn")


class _Popen(popen_spawn_posix.Popen):
    """A process that has got the open files, and gets what it is to do, as one of "spawn" does."""

    def _launch(self, process_obj: SpawnProcess) -> None:
        with patch.object(util, "spawnv_passfds", self._fork):
            super()._launch(process_obj)

    def _fork(self, _executable: object, command: Sequence[str], fds: Sequence[int]) -> int:
        program = command[command.index("-c") + 1]
        forked = [sys.executable, "-m", __name__, program]
        with open(2, "wb", closefd=False) as output:
            return (
                fork_server()
                .popen(forked, stdout=output, env=dict(os.environ), cwd=Path.cwd(), pass_fds=sorted(set(fds)))
                .pid
            )

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:  # the fork is no child of this process, which could wait for it
            self.returncode = fork_server().await_end(self.pid, 0 if flag == os.WNOHANG else None)
        return self.returncode


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: SpawnProcess) -> _Popen:  # noqa: N802 - a name of `multiprocessing`
        return _Popen(process_obj)


class _ForkedContext(SpawnContext):
    Process = _Process


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = sys.argv[1]
    sys.argv = ["-c", "--multiprocessing-fork"]
    exec(program)
