"""Tasks on untrusted files in child processes under limits: ``python -m snf_worker.sandbox.process MODULE:TASK``."""

from __future__ import annotations

import json
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

from snf_models.disk import storage_errors
from snf_models.errors import ErrorKind, ModelsError
from snf_worker.process_setup import ParentDeathPipe, limit_memory, lower_limit, prefer_oom_kill, tune_process, watch

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.5  # longest time in seconds between two calls of ``progress``
PROGRESS_S = 0.1  # shortest time in seconds between two messages of progress
MAX_MESSAGE_BYTES, MAX_LOG_BYTES = 2**20, 2**12  # largest size of a message, and of the end of stderr that is kept
NICENESS = 10
GRACE_CPU_S = 5  # processor time in seconds between the signal at the limit and the kill
INHERITED = {
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "SNF_HOME",
}  # fmt: skip
"""Environment variables that the process inherits; all others might hold keys or passwords."""

Progress = Callable[[int, int], None]  # function that gets the number of finished units and the number of all units
Task = Callable[[Any, Progress], Any]
"""Function at the top of a module, which the child imports; order and result are JSON values."""


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of memory and time for a child process."""

    memory_bytes: int  # effective on Linux
    cpu_s: int  # processor time
    wall_s: float  # real time


class LimitExceeded(Exception):
    """Raised when a child process exceeded its limit of memory or time; the text names the limit."""


class ProcessDied(Exception):
    """Raised when a child process ended without an answer."""


class ProcessKilled(ProcessDied):
    """Raised when a signal ended a child process."""


def run_sandboxed(
    task: Task,
    order: object,
    limits: ProcessLimits,
    progress: Progress = lambda _done, _total: None,
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Return ``task(order)`` of a child process; raise its ``ModelsError``, ``LimitExceeded`` or ``ProcessDied``.

    An error of ``progress`` ends the process. ``variables`` are added to its environment.
    """
    environment = {name: os.environ[name] for name in INHERITED & os.environ.keys()} | dict(variables or {})
    lifeline = ParentDeathPipe()
    with tempfile.TemporaryFile() as given:  # with a pipe both processes might wait for each other
        given.write(json.dumps({"limits": asdict(limits), "order": order}).encode())
        given.seek(0)
        with lifeline.passed():
            process = subprocess.Popen(
                [sys.executable, "-m", "snf_worker.sandbox.process", f"{task.__module__}:{task.__name__}"],
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
                return _await_answer(process, limits, progress)
            finally:
                if process.poll() is None:
                    # The process may end meanwhile; macOS then refuses to signal a group of zombies.
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
    finally:
        lifeline.close()


def _await_answer(process: subprocess.Popen[bytes], limits: ProcessLimits, progress: Progress) -> Any:
    """Return the result; raise the errors of ``run_sandboxed``."""
    deadline = time.monotonic() + limits.wall_s
    too_long = LimitExceeded(f"more than {limits.wall_s:g} s")
    answer, log = _read_outputs(process, deadline, too_long, progress)
    match answer:
        case {"result": result}:
            return result
        case {"problem": {"slug": str(slug), "title": str(title), "kind": str(kind), "detail": str(detail)}}:
            error = ModelsError(detail)
            error.slug, error.title, error.kind = slug, title, ErrorKind(kind)
            raise error
        case {"limit": "memory"}:
            raise LimitExceeded(f"more than {limits.memory_bytes} bytes of memory")
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise too_long from None
    if code == -signal.SIGXCPU:
        raise LimitExceeded(f"more than {limits.cpu_s} s of processor time")
    if code < 0:
        raise ProcessKilled(f"ended by {signal.Signals(-code).name}: {log}")
    raise ProcessDied(f"ended with exit code {code} and no answer:\n{log}")


def _read_outputs(
    process: subprocess.Popen[bytes], deadline: float, too_long: LimitExceeded, progress: Progress
) -> tuple[Any, str]:
    """Read both outputs until they end; return the last message that is no progress, and the end of stderr."""
    unread = log = b""
    at, answer = (0, 0), None
    with selectors.DefaultSelector() as outputs:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            outputs.register(pipe, selectors.EVENT_READ)
        while outputs.get_map():
            for output, _ in outputs.select(LOOK_S):
                data = os.read(output.fd, 2**16)
                if not data:
                    outputs.unregister(output.fileobj)
                elif output.fileobj is process.stderr:
                    log = (log + data)[-MAX_LOG_BYTES:]
                else:
                    *lines, unread = (unread + data).split(b"\n")
                    for message in map(json.loads, lines):
                        match message:
                            case {"progress": [int(done), int(total)]}:
                                at = done, total
                            case _:
                                answer = message
            if len(unread) > MAX_MESSAGE_BYTES:
                raise ProcessDied(f"its answer is longer than {MAX_MESSAGE_BYTES} bytes")
            progress(*at)
            if time.monotonic() > deadline:
                raise too_long
    return answer, log.decode(errors="replace")


def main() -> None:
    """Set the limits of this process, then import and run the task on the command line."""
    os.nice(NICENESS)
    tune_process()
    watch(lambda _message: None, lambda: os.killpg(0, signal.SIGKILL))
    given = json.load(sys.stdin.buffer)
    limits = ProcessLimits(**given["limits"])
    limit_memory(limits.memory_bytes)
    prefer_oom_kill()
    lower_limit(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + GRACE_CPU_S)
    lower_limit(resource.RLIMIT_CORE, 0, 0)
    # Other output of the process must not mix with the messages.
    messages = os.dup(1)
    os.dup2(2, 1)
    written, at = 0.0, (0, 0)

    def progress(done: int, total: int) -> None:
        nonlocal written, at
        at = done, total
        if time.monotonic() - written > PROGRESS_S:
            written = time.monotonic()
            _write(messages, {"progress": at})

    answer = _run(sys.argv[1], given["order"], progress)
    _write(messages, {"progress": at})
    _write(messages, answer)


def _run(task: str, order: Any, progress: Progress) -> dict[str, Any]:
    module, _, name = task.partition(":")
    try:
        with storage_errors():
            return {"result": getattr(import_module(module), name)(order, progress)}
    except ModelsError as error:
        problem = {"slug": error.slug, "title": error.title, "kind": error.kind, "detail": error.detail}
        return {"problem": problem}
    except MemoryError:
        return {"limit": "memory"}


def _write(messages: int, message: dict[str, Any]) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(messages, data) :]


if __name__ == "__main__":
    from snf_worker.sandbox import process as sandbox  # noqa: PLW0406 - the one whose errors tasks import

    sandbox.main()
