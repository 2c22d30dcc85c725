"""Installations, attempts of jobs and readers of uploads as forks of a process that has imported what they need."""

import atexit
import fcntl
import gc
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Never, Self
from unittest.mock import patch

import coverage

from tests.support.paths import ROOT
from tests.support.unmeasured import unmeasured

IMPORTED = (
    "snf_models.scorer", "snf_models.pipeline.run", "snf_models.evaluation.evaluate", "snf_models.bulk.plan",
    "snf_worker.attempts.run_attempt",
    "sklearn.covariance", "sklearn.mixture", "torch._dynamo",
    "celery.app.base", "fastapi", "fastapi_offline", "httptools", "kombu.transport.redis", "uvicorn.main", "uvloop",
    "celery.concurrency.solo", "celery.worker", "snf_worker.runtime.main", "tests.worker.support.helpers",
    "snf_app.main", "snf_app.http.connections", "snf_worker.runtime.launcher", "snf_worker.attempts.score",
    "snf_models.scoring.cache", "snf_models.scoring.open_density", "snf_models.loading.trained",
    "snf_models.limits.measure",
    "snf_models.recommendation.compare",
    "snf_models.datasets.store", "snf_models.datasets.store",
    "tests.support.sandboxes",
)  # fmt: skip
"""Modules that take long to import and start no thread."""
LISTENS_AT = "TEST_FORK_SERVER"
"""Variable with the path of the socket at which the process of a test run that is forked takes requests."""
NAME_LENGTH = 15
"""Characters that Linux keeps of the name of a process; those of a fork are the last ones of its module."""
MOST_FILES = 10
"""Most open files that a process may be given."""
ZOMBIE_S = 1.0
"""Time for which the id of a process that has ended is not given to another: its parent may be about to signal it."""


class ForkServer:
    """Starts processes as `subprocess.Popen` does, by the process of this test run that is forked."""

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
        stdout: int | IO[bytes],
        stderr: int | IO[bytes] = subprocess.STDOUT,
        env: Mapping[str, str],
        cwd: Path,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = True,
    ) -> "Process":
        """Runs `python -m MODULE ...` in a session of its own.

        Where forks are not safe, which is everywhere but on Linux, it is a new process.
        """
        assert command[:2] == [sys.executable, "-m"], command
        assert start_new_session
        if sys.platform != "linux":
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, pass_fds=pass_fds,
                start_new_session=start_new_session,
            )  # fmt: skip
            self.pids[command[-1]] = process.pid
            return process
        with ExitStack() as given, self._lock:
            channel = self._channel or self._connect()
            passed = {fd: fd for fd in pass_fds}
            if stdin != subprocess.DEVNULL:
                passed[0] = stdin
            read: list[IO[bytes] | None] = [None, None]
            if stdout == subprocess.PIPE:
                read[0], stdout = _pipe(given)
            if stderr == subprocess.PIPE:
                read[1], stderr = _pipe(given)
            if not isinstance(stderr, int):
                passed[2] = stderr.fileno()
            assert not isinstance(stdout, int)
            request = {
                "argv": command[2:], "env": dict(env), "cwd": str(cwd), "umask": umask(), "passed": list(passed)
            }  # fmt: skip
            data = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(channel, [data], [stdout.fileno(), *passed.values()])
            channel.sendall(data[sent:])
            with self._ended:
                self._ended.wait_for(lambda: self._started is not None or self._gone)
                pid, self._started = self._started, None
        if pid is None:
            raise ChildProcessError("the fork server has ended")
        self.pids[command[-1]] = pid
        return ForkedProcess(self, pid, *read)

    def await_end(self, pid: int, timeout: float | None) -> int | None:
        """The exit code of a process, once it has ended in time."""
        with self._ended:
            self._ended.wait_for(lambda: pid in self._codes or self._gone, timeout)
            if self._gone:
                raise ChildProcessError("the fork server has ended")
            return self._codes.get(pid)

    def close(self) -> None:
        """Starts no more; what it has started goes on."""
        if self._channel is not None:
            self._channel.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(os.environ[LISTENS_AT])
        threading.Thread(target=self._listen, args=(channel,), daemon=True).start()
        self._channel = channel
        return channel

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


def _pipe(given: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """What a process writes, to be read here, and the end for that process, which this one closes."""
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb"), given.enter_context(os.fdopen(writing, "wb"))


class ForkedProcess:
    """What the product and tests need of `subprocess.Popen`."""

    def __init__(
        self, server: ForkServer, pid: int, stdout: IO[bytes] | None = None, stderr: IO[bytes] | None = None
    ) -> None:
        self._server = server
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for output in (self.stdout, self.stderr):
            if output is not None:
                output.close()
        self.wait()

    def poll(self) -> int | None:
        return self._server.await_end(self.pid, 0)

    @property
    def returncode(self) -> int | None:
        return self.poll()

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


def umask() -> int:
    """That of this process, which a new process inherits."""
    (line,) = re.findall(r"^Umask:\s(.+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(line, 8)


@cache
def fork_server() -> ForkServer:
    """The one of this process."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def started_by(popen: Callable[..., Process], module: str) -> AbstractContextManager[None]:
    """Processes that a module of this process starts are started by a function in place of `subprocess.Popen`."""
    names: Any = SimpleNamespace(**vars(subprocess) | {"Popen": popen})
    return patch(f"{module}.subprocess", names)


def forked_by(server: ForkServer, module: str) -> AbstractContextManager[None]:
    """Processes that a module of this process starts are forks of that server."""
    return started_by(server.popen, module)


def forked_attempts(server: ForkServer) -> AbstractContextManager[None]:
    """Attempts that this process starts are forks of that server."""
    return forked_by(server, "snf_worker.process_setup")


def listen(path: Path) -> socket.socket:
    """Takes requests at a path, and starts the process that is forked with the first one."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(100)
    lifeline, theirs = socket.socketpair()

    def start() -> None:
        with listening, theirs:
            ready, _, _ = select.select([listening, theirs], [], [])
            if theirs not in ready:
                fds = [listening.fileno(), theirs.fileno()]
                command = [sys.executable, "-m", __name__, *map(str, fds)]
                process = subprocess.Popen(command, cwd=ROOT, env=unmeasured(), pass_fds=fds)
        if theirs not in ready:
            process.wait()

    threading.Thread(target=start, daemon=True).start()
    return lifeline


def serve(listening: socket.socket, lifeline: socket.socket) -> None:
    """Forks for each request, and reports each end to who has asked, until the other side of the lifeline is gone."""
    for module in IMPORTED:
        import_module(module)
    assert threading.active_count() == 1, "a fork has the locks of other threads, but not the threads"
    gc.freeze()  # all that is imported stays: a collection in a fork would copy it
    for finalizer in weakref.finalize._registry:
        finalizer.atexit = False  # at its end a fork does not take back what PyTorch registered of operators
    # Coverage notes where it was started, and looks for the source of each module that is imported.
    vars(coverage.collector)["short_stack"] = str
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writing)
    clients: set[socket.socket] = set()
    running: dict[int, socket.socket] = {}
    ended: dict[int, float] = {}
    while True:
        ready, _, _ = select.select([listening, lifeline, reading, *clients], [], [], ZOMBIE_S if ended else None)
        if lifeline in ready:
            return
        if listening in ready:
            clients.add(listening.accept()[0])
        if reading in ready:
            os.read(reading, 1000)
            report_ended(running, ended)
        for pid in [pid for pid, when in ended.items() if time.monotonic() - when > ZOMBIE_S]:
            os.waitpid(pid, 0)
            del ended[pid]
        for client in clients.intersection(ready):
            request, fds = received(client)
            if request is None:
                clients.remove(client)
                client.close()
                continue
            pid = os.fork()
            if pid == 0:
                for inherited in (listening, lifeline, *clients):
                    inherited.close()
                become(request, *fds)
            running[pid] = client
            for fd in fds:
                os.close(fd)
            report(client, pid)


def received(client: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next request of a client, None where it is gone, and the open files that came along."""
    with suppress(ConnectionError):
        data, fds, _, _ = socket.recv_fds(client, 2**16, MOST_FILES)
        while not data.endswith(b"\n") and (more := client.recv(2**16)):
            data += more
        if data.endswith(b"\n"):
            return json.loads(data), fds
        for fd in fds:
            os.close(fd)
    return None, []


def report_ended(running: dict[int, socket.socket], ended: dict[int, float]) -> None:
    """Tells clients which of their processes have ended, and keeps the times."""
    for pid, client in list(running.items()):
        if end := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            report(client, pid, end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
            del running[pid]
            ended[pid] = time.monotonic()


def report(client: socket.socket, *what: int) -> None:
    """Tells a client, which may be gone, of a start or an end."""
    with suppress(OSError):
        client.sendall(json.dumps(what).encode() + b"\n")


def become(request: dict[str, Any], output: int, *passed: int) -> Never:
    """Makes this fork the process that was asked for."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for target in (1, 2):
        os.dup2(output, target)
    # First to numbers of which none is wanted.
    passed_on = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 1 + max(request["passed"], default=0)) for fd in passed]
    for fd, target in zip(passed_on, request["passed"], strict=True):
        os.dup2(fd, target)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["env"])
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    known = {*sys.path, ""}
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in known]
    sys.argv = request["argv"]
    started = (
        sys.argv[1] if sys.argv[0] in ("snf_worker.process_setup", "snf_worker.attempts.run_attempt") else sys.argv[0]
    )
    Path("/proc/self/comm").write_text(started[-NAME_LENGTH:])
    # Budgets in minutes count from the start of a process, which imports this module first.
    vars(sys.modules["snf_worker.attempts.run_attempt"])["BEGAN"] = time.monotonic()
    import coverage  # noqa: PLC0415 - as above

    coverage.process_startup()
    try:
        with import_module("tests.support.sandboxes").forked():
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (None, *range(256)):
            raise
        leave(end.code or 0)
    leave(0)


def leave(code: int) -> Never:
    """Ends this process as an interpreter does, but does not take modules apart, which takes it a third of a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    serve(*(socket.socket(fileno=int(fd)) for fd in sys.argv[1:]))
