"""Tasks on untrusted files, run in child processes under limits: ``python -m worker.sandbox.process MODULE:TASK``."""

from __future__ import annotations

import json
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from models.disk_space import storage_errors
from models.errors import ErrorKind, ModelsError
from worker.process_tuning import tune_process
from worker.runtime.lifeline import Lifeline, watch

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.5
"""Longest time in seconds between two calls of ``progress``."""
PROGRESS_S = 0.1
"""Shortest time in seconds between two messages of progress."""
MAX_MESSAGE_BYTES, MAX_LOG_BYTES = 2**20, 2**12
"""Largest size of a message, and of the end of stderr that is kept."""
NICENESS = 10
GRACE_CPU_S = 5
"""Processor time in seconds between the signal at the limit and the kill."""
OOM_SCORE_ADJ = 900
"""Adjustment of the out-of-memory score, at most 1000: killed before worker, broker and service."""
INHERITED = {
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "SNF_HOME",
}  # fmt: skip
"""Environment variables that the process inherits; all others might hold keys or passwords."""

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Function that gets the number of finished units and the number of all units."""
Task = Callable[[Any, Progress], Any]
"""Function at the top of a module, which the child imports; order and result are JSON values."""


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of memory and time for a child process."""

    memory_bytes: int  # effective on Linux
    cpu_s: int  # processor time
    wall_s: float  # real time


class RelayedError(ModelsError):
    """Error from a child process, raised again with the type name and the text of the original."""

    def __init__(self, slug: str, title: str, kind: ErrorKind, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title
        self.kind = kind


class LimitExceeded(Exception):
    """Raised when a child process exceeded its limit of memory or time; the text names the limit."""


class ProcessDied(Exception):
    """Raised when a child process ended without an answer; ``by_signal`` is True if a signal killed it."""

    def __init__(self, detail: str, *, by_signal: bool) -> None:
        super().__init__(detail)
        self.by_signal = by_signal


def run_sandboxed(
    task: Task,
    order: object,
    limits: ProcessLimits,
    progress: Progress = lambda _done, _total: None,
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Return ``task(order)`` of a child process; raise ``RelayedError``, ``LimitExceeded`` or ``ProcessDied``.

    An error of ``progress`` ends the process. ``variables`` are added to its environment.
    """
    environment = {name: os.environ[name] for name in INHERITED & os.environ.keys()} | dict(variables or {})
    lifeline = Lifeline()
    with tempfile.TemporaryFile() as given:  # with a pipe both processes might wait for each other
        given.write(json.dumps({"limits": asdict(limits), "order": order}).encode())
        given.seek(0)
        with lifeline.passed():
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.sandbox.process", f"{task.__module__}:{task.__name__}"],
                stdin=given.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                env=environment | {"OMP_NUM_THREADS": "1"} | lifeline.environment,
                pass_fds=(lifeline.fd,),
                start_new_session=True,
            )
    try:
        with process:
            try:
                return _OutputReader(process, limits, progress).answer()
            finally:
                if process.poll() is None:
                    # The process may end meanwhile; macOS then refuses to signal a group of zombies.
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
    finally:
        lifeline.close()


class _OutputReader:
    """Reader of both outputs of a process until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], limits: ProcessLimits, progress: Progress) -> None:
        self._process = process
        self._limits = limits
        self._progress = progress
        self._deadline = time.monotonic() + limits.wall_s
        self._unread = self._log = b""
        self._at = (0, 0)
        self._message: Any = None

    def answer(self) -> Any:
        """Return the result; raise the errors of ``run_sandboxed``."""
        self._read_all()
        match self._message:
            case {"result": result}:
                return result
            case {"problem": {"slug": str(slug), "title": str(title), "kind": str(kind), "detail": str(detail)}}:
                raise RelayedError(slug, title, ErrorKind(kind), detail)
            case {"limit": "memory"}:
                raise LimitExceeded(f"more than {self._limits.memory_bytes} bytes of memory")
        raise self._death()

    def _read_all(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with selectors.DefaultSelector() as outputs:
            outputs.register(self._process.stdout, selectors.EVENT_READ, self._take)
            outputs.register(self._process.stderr, selectors.EVENT_READ, self._take_log)
            while outputs.get_map():
                for output, _ in outputs.select(LOOK_S):
                    data = os.read(output.fd, 2**16)
                    if data:
                        output.data(data)
                    else:
                        outputs.unregister(output.fileobj)
                self._progress(*self._at)
                if time.monotonic() > self._deadline:
                    raise self._too_long()

    def _take(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        if len(self._unread) > MAX_MESSAGE_BYTES:
            raise ProcessDied(f"its answer is longer than {MAX_MESSAGE_BYTES} bytes", by_signal=False)
        for line in lines:
            match json.loads(line):
                case {"progress": [int(done), int(total)]}:
                    self._at = done, total
                case message:
                    self._message = message

    def _take_log(self, data: bytes) -> None:
        self._log = (self._log + data)[-MAX_LOG_BYTES:]

    def _death(self) -> Exception:
        try:
            code = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self._too_long()
        if code == -signal.SIGXCPU:
            return LimitExceeded(f"more than {self._limits.cpu_s} s of processor time")
        log = self._log.decode(errors="replace")
        if code < 0:
            return ProcessDied(f"ended by {signal.Signals(-code).name}: {log}", by_signal=True)
        return ProcessDied(f"ended with exit code {code} and no answer:\n{log}", by_signal=False)

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(f"more than {self._limits.wall_s:g} s")


def limit_memory(most: int | None) -> None:
    """Limit the bytes of memory that this process can allocate, on Linux."""
    if most is not None:
        _lower_limit(resource.RLIMIT_DATA, most, most)


def _lower_limit(kind: int, soft: int, hard: int) -> None:
    """Set a resource limit of this process, but never above its present hard limit."""
    _, inherited = resource.getrlimit(kind)
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError) as problem:
        log.warning("the system refuses to set resource limit %d to %d: %s", kind, soft, problem)


def prefer_oom_kill() -> None:
    """Make the Linux kernel kill this process and its children first when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE_ADJ}\n", encoding="ascii")
    except OSError as problem:
        log.debug("the kernel has no out-of-memory score: %s", problem)


def main() -> None:
    """Set the limits of this process, then import and run the task on the command line."""
    os.nice(NICENESS)
    tune_process()
    watch(lambda _message: None, lambda: os.killpg(0, signal.SIGKILL))
    given = json.load(sys.stdin.buffer)
    limits = ProcessLimits(**given["limits"])
    limit_memory(limits.memory_bytes)
    prefer_oom_kill()
    _lower_limit(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + GRACE_CPU_S)
    _lower_limit(resource.RLIMIT_CORE, 0, 0)
    # Other output of the process must not mix with the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    progress = _ProgressWriter(answers)
    answer = _answer(sys.argv[1], given["order"], progress)
    progress.write()
    _write(answers, answer)


class _ProgressWriter:
    """Writer of progress messages, a few a second, and of the last one."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._written = 0.0
        self._at = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        self._at = done, total
        if time.monotonic() - self._written > PROGRESS_S:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        _write(self._answers, {"progress": self._at})


def _answer(task: str, order: Any, progress: Progress) -> dict[str, Any]:
    module, _, name = task.partition(":")
    try:
        with storage_errors():
            return {"result": getattr(import_module(module), name)(order, progress)}
    except ModelsError as error:
        problem = {"slug": error.slug, "title": error.title, "kind": error.kind, "detail": error.detail}
        return {"problem": problem}
    except MemoryError:
        return {"limit": "memory"}


def _write(answers: int, message: dict[str, Any]) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    from worker.sandbox import process as sandbox  # noqa: PLW0406 - the one whose errors tasks import

    sandbox.main()
