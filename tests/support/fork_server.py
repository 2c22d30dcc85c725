"""Services and attempts of jobs as forks of a process that has imported what they need, which takes seconds.

Each is a process of its own, in a session of its own, that runs the module of its command line from the start.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Never
from unittest.mock import patch

import coverage

from tests.support.paths import ROOT
from tests.support.unmeasured import unmeasured

IMPORTED = (
    "models.scorer", "models.training.run", "models.evaluation.evaluate", "models.bulk.plan", "worker.attempts.attempt",
    "sklearn.covariance", "sklearn.mixture", "torch._dynamo",
    "celery.app.base", "fastapi", "fastapi_offline", "httptools", "kombu.transport.redis", "uvicorn.main", "uvloop",
    "celery.concurrency.solo", "celery.worker", "worker.runtime.main", "tests.worker.support.helpers",
)  # fmt: skip
"""Modules that take long to import and start no thread."""
ZOMBIE_S = 1.0
"""Time for which the id of a process that has ended is not given to another: its parent may be about to signal it."""


class ForkServer:
    """Starts processes as `subprocess.Popen` does; its own process starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Condition()
        self._codes: dict[int, int] = {}
        self._channel: socket.socket | None = None
        self._started: int | None = None
        self._gone = False
        self.pids: dict[str, int] = {}
        """Ids of the processes by the last word of their command line; that of an attempt is the folder of its job."""

    def popen(
        self,
        command: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: IO[bytes],
        stderr: int = subprocess.STDOUT,
        env: Mapping[str, str],
        cwd: Path,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = True,
    ) -> "Process":
        """Runs `python -m MODULE ...`; input, errors and session are as attempts have them.

        Where forks are not safe, which is everywhere but on Linux, it is a new process.
        """
        assert command[:2] == [sys.executable, "-m"], command
        assert (stdin, stderr, start_new_session) == (subprocess.DEVNULL, subprocess.STDOUT, True)
        if sys.platform != "linux":
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, pass_fds=pass_fds,
                start_new_session=start_new_session,
            )  # fmt: skip
            self.pids[command[-1]] = process.pid
            return process
        with self._lock:
            channel = self._channel or self._start()
            request = {"argv": command[2:], "env": dict(env), "cwd": str(cwd), "passed": list(pass_fds)}
            data = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(channel, [data], [stdout.fileno(), *pass_fds])
            channel.sendall(data[sent:])
            with self._ended:
                self._ended.wait_for(lambda: self._started is not None or self._gone)
                pid, self._started = self._started, None
        if pid is None:
            raise ChildProcessError("the fork server has ended")
        self.pids[command[-1]] = pid
        return ForkedProcess(self, pid)

    def await_end(self, pid: int, timeout: float | None) -> int | None:
        """The exit code of a process, once it has ended in time."""
        with self._ended:
            self._ended.wait_for(lambda: pid in self._codes or self._gone, timeout)
            if self._gone:
                raise ChildProcessError("the fork server has ended")
            return self._codes.get(pid)

    def close(self) -> None:
        """Ends it; what it has started goes on."""
        if self._channel is not None:
            self._channel.shutdown(socket.SHUT_RDWR)
            self._process.wait()

    def _start(self) -> socket.socket:
        self._channel, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, env=unmeasured(), pass_fds=[theirs.fileno()])
        threading.Thread(target=self._listen, args=(self._channel,), daemon=True).start()
        return self._channel

    def _listen(self, channel: socket.socket) -> None:
        with suppress(ConnectionError):
            for line in channel.makefile("rb"):
                with self._ended:
                    match json.loads(line):
                        case [pid]:
                            self._codes.pop(pid, None)
                            self._started = pid
                        case [pid, code]:
                            self._codes[pid] = code
                    self._ended.notify_all()
        with self._ended:
            self._gone = True
            self._ended.notify_all()


class ForkedProcess:
    """What attempts and tests need of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid

    def poll(self) -> int | None:
        return self._server.await_end(self.pid, 0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        code = self._server.await_end(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return code


Process = ForkedProcess | subprocess.Popen[bytes]


@cache
def fork_server() -> ForkServer:
    """The one of this process."""
    server = ForkServer()
    atexit.register(server.close)
    return server


@contextmanager
def forked_attempts(server: ForkServer) -> Iterator[None]:
    """Attempts that this process starts are forks of that server."""
    names: Any = SimpleNamespace(**vars(subprocess) | {"Popen": server.popen})
    with patch("worker.runtime.process.subprocess", names):
        yield


def serve(channel: socket.socket) -> None:
    """Forks for each request, and reports each end, until the other side is gone."""
    for module in IMPORTED:
        import_module(module)
    # Tests ask for the same numbers in every form of a model, not for the fastest.
    tiles = import_module("snf_runtime.scoring.engines.tiles")
    assert tiles.ROUNDS > 1
    tiles.ROUNDS = 1
    assert threading.active_count() == 1, "a fork has the locks of other threads, but not the threads"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writing)
    running: set[int] = set()
    ended: dict[int, float] = {}
    while True:
        ready, _, _ = select.select([channel, reading], [], [], ZOMBIE_S if ended else None)
        if reading in ready:
            os.read(reading, 1000)
            for pid in list(running):
                if end := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
                    channel.sendall(json.dumps([pid, code]).encode() + b"\n")
                    running.remove(pid)
                    ended[pid] = time.monotonic()
        for pid in [pid for pid, when in ended.items() if time.monotonic() - when > ZOMBIE_S]:
            os.waitpid(pid, 0)
            del ended[pid]
        if channel in ready:
            data, fds, _, _ = socket.recv_fds(channel, 2**16, 2)
            while data and not data.endswith(b"\n"):
                data += channel.recv(2**16)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                channel.close()
                become(json.loads(data), *fds)
            running.add(pid)
            for fd in fds:
                os.close(fd)
            channel.sendall(json.dumps([pid]).encode() + b"\n")


def become(request: dict[str, Any], output: int, *passed: int) -> Never:
    """Makes this fork the process that was asked for."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for target in (1, 2):
        os.dup2(output, target)
    for fd, target in zip(passed, request["passed"], strict=True):
        os.dup2(fd, target)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    # Budgets in minutes count from the start of a process, which imports this module first.
    vars(sys.modules["worker.attempts.attempt"])["BEGAN"] = time.monotonic()
    coverage.process_startup()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))
