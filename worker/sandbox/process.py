"""Work on files of unknown origin in a process of its own, so that nothing in them can hurt its parent."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import ErrorKind, ModelsError
from worker.runtime.lifeline import Lifeline

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.5
"""Longest time between two calls of ``progress``, which may end the work."""
MAX_MESSAGE, MAX_LOG = 2**20, 2**12
"""Most bytes of one message, and of what is kept of stderr."""
INHERITED = {
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "SNF_HOME",
}  # fmt: skip
"""The variables that the process gets: among all others might be keys and passwords."""


@dataclass(frozen=True)
class ProcessLimits:
    """Most bytes of memory (on Linux), seconds of processor time, and seconds on the clock."""

    memory_bytes: int
    cpu_s: int
    wall_s: float


class RelayedError(ModelsError):
    """A typed error that a process answered with: slug, title, kind and detail are those of the original."""

    def __init__(self, slug: str, title: str, kind: ErrorKind, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title
        self.kind = kind


class LimitExceeded(Exception):
    """A process came to one of its limits, which the text names."""


class ProcessDied(Exception):
    """A process ended without an answer; ``by_signal`` where it was killed, which an error of Python never does."""

    def __init__(self, detail: str, *, by_signal: bool) -> None:
        super().__init__(detail)
        self.by_signal = by_signal


def run_limited(
    module: str, order: object, limits: ProcessLimits, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Any:
    """Run ``python -m module``, which calls ``do_limited``, on an order, and return its answer; both are JSON.

    Whatever happens, the process is gone at the end, and it ends with this one. ``progress`` gets what the process
    reports (0 of 0 before that), at least every ``LOOK_S``; what it raises ends the process and passes through. Raises
    ``RelayedError``, ``LimitExceeded`` and ``ProcessDied``.
    """
    lifeline = Lifeline()
    try:
        with tempfile.TemporaryFile() as given:  # through a pipe both might wait for each other
            given.write(json.dumps({"limits": asdict(limits), "order": order}).encode())
            given.seek(0)
            process = _start(module, given.fileno(), lifeline)
        with process:
            try:
                return _Conversation(process, limits, progress).answer()
            finally:
                if process.poll() is None:
                    # It may end meanwhile; macOS then refuses to signal a group of zombies.
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
    finally:
        lifeline.close()


def _start(module: str, given: int, lifeline: Lifeline) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in INHERITED & os.environ.keys()}
    try:
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
    finally:
        lifeline.passed()


class _Conversation:
    """What a process says on its two outputs until it ends."""

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
        """Return the result. Raises what ``run_limited`` raises."""
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
        if len(self._said) > MAX_MESSAGE:
            raise ProcessDied("its answer is too long", by_signal=False)
        for line in lines:
            match json.loads(line):
                case {"progress": [int(done), int(total)]}:
                    self._at = done, total
                case message:
                    self._message = message

    def _take_log(self, data: bytes) -> None:
        self._log = (self._log + data)[-MAX_LOG:]

    def _death(self) -> Exception:
        try:
            code = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self._too_long()
        if code == -signal.SIGXCPU:
            return LimitExceeded(f"more than {self._limits.cpu_s} s of processor time")
        log = self._log.decode(errors="replace")
        if code < 0:
            return ProcessDied(f"it was ended by {signal.Signals(-code).name}: {log}", by_signal=True)
        return ProcessDied(f"it ended with {code} and no answer:\n{log}", by_signal=False)

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(f"more than {self._limits.wall_s:g} s")
