"""Child processes that read untrusted files under limits, and answer with JSON messages."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import ErrorKind, ModelsError
from worker.runtime.lifeline import Lifeline

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.5
"""Longest time in seconds between two calls of ``progress``."""
MAX_MESSAGE_BYTES, MAX_LOG_BYTES = 2**20, 2**12
"""Largest size of a message, and of the end of stderr that is kept."""
INHERITED = {
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "SNF_HOME",
}  # fmt: skip
"""Environment variables that the process inherits; all others might hold keys or passwords."""


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


def run_limited(
    module: str,
    order: object,
    limits: ProcessLimits,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Run a module that calls ``do_limited``; raise ``RelayedError``, ``LimitExceeded`` or ``ProcessDied``."""
    with tempfile.TemporaryFile() as given:  # with a pipe both processes might wait for each other
        given.write(json.dumps({"limits": asdict(limits), "order": order}).encode())
        given.seek(0)
        lifeline = Lifeline()
        with lifeline.passed():
            process = _start(module, given.fileno(), lifeline, variables or {})
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


def _start(module: str, given: int, lifeline: Lifeline, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in INHERITED & os.environ.keys()} | dict(variables)
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"} | lifeline.environment,
        pass_fds=(lifeline.fd,),
        start_new_session=True,
    )


class _OutputReader:
    """Reader of both outputs of a process until it ends."""

    def __init__(
        self, process: subprocess.Popen[bytes], limits: ProcessLimits, progress: Callable[[int, int], None]
    ) -> None:
        self._process = process
        self._limits = limits
        self._progress = progress
        self._deadline = time.monotonic() + limits.wall_s
        self._said = b""
        self._log = b""
        self._at = (0, 0)
        self._message: Any = None

    def answer(self) -> Any:
        """Return the result; raise the errors of ``run_limited``."""
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
        *lines, self._said = (self._said + data).split(b"\n")
        if len(self._said) > MAX_MESSAGE_BYTES:
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
