"""Setup of processes: garbage collector, limits, umask, and a pipe by which a child detects the death of its parent.

``python -m snf_worker.process_setup MODULE`` runs a module that ends when its parent dies, even by ``kill -9``.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import resource
import runpy
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

GC_THRESHOLD = 10_000
"""New objects between two collections. Python's 700 would traverse half a million objects again and again."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 2**20, 16 * 2**20
"""Bytes from which a block is memory of its own, and of free memory that is kept beside such blocks."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TUNED_BY = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"
OOM_SCORE_ADJ = 900  # adjustment of the out-of-memory score, at most 1000: killed before worker, broker and service


def give_back_memory() -> None:
    """Make glibc give freed blocks of 1 MiB and more back to the system, unless its variables tune it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name in os.environ for name in _TUNED_BY):
        # By itself glibc raises it to 32 MiB: memory of decoded images then stayed in the heaps of all threads.
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def tune_process() -> None:
    """Collect garbage less often and let waiting OpenMP threads sleep; call it before PyTorch is imported."""
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    atexit.register(gc.freeze)
    # By default a thread spins, and takes its core from other processes, and from the threads that it waits for.
    # Some ten microseconds help: a training step has thousands of operations that are as short as waking a thread.
    if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() != "ACTIVE":
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def limit_memory(most: int | None) -> None:
    """Limit the bytes of memory that this process can allocate, on Linux."""
    if most is not None:
        lower_limit(resource.RLIMIT_DATA, most, most)


def lower_limit(kind: int, soft: int, hard: int) -> None:
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


USER_UMASK = "_SNF_USER_UMASK"
"""Environment variable that our processes hand to those that they start; it is no setting."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@cache
def keep_files_private() -> int:
    """Set the umask 077 for this process and its children, and return the user's own."""
    own = os.umask(_OTHERS)
    return int(os.environ.setdefault(USER_UMASK, f"{own:03o}"), 8)


@contextmanager
def user_umask() -> Iterator[None]:
    """Restore the user's umask during the block, for files outside of ``home`` that a user asks for."""
    given = keep_files_private()
    os.umask(given)
    try:
        yield
    finally:
        os.umask(_OTHERS)


@contextmanager
def private_umask() -> Iterator[None]:
    """Make new files private during the block, for ``home`` inside :func:`user_umask`."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def protect_home(home: Path) -> str | None:
    """Make the data folder private to its owner; return a sentence on what was or could not be changed, or None."""
    keep_files_private()
    if not home.is_dir():
        return None
    state = home.stat()
    mode = stat.S_IMODE(state.st_mode)
    if not mode & _OTHERS:
        return None
    open_to = f"{home} was open to other users of this machine (mode {mode:o})"
    if state.st_uid != os.getuid():
        return f"{open_to} and stays so, because it belongs to uid {state.st_uid}: its owner should chmod 700 it"
    try:
        home.chmod(mode & ~_OTHERS)
    except OSError as error:
        return f"{open_to} and stays so: {error.strerror}"
    return f"{open_to}; now it is open to its owner alone"


VARIABLE = "SNF_LIFELINE_FD"
_parent: socket.socket | None = None  # the end of the socket pair of this process, once it is watched

SECRETS = frozenset({"SNF_API_KEYS", "SNF_API_KEY"})
"""Names, in any case, that no child process inherits: values are visible under ``/proc``."""


def child_environment(*changes: Mapping[str, str]) -> dict[str, str]:
    """Return a child process's environment: that of this process without API keys, updated by ``changes``."""
    variables = {name: value for name, value in os.environ.items() if name.upper() not in SECRETS}
    for change in changes:
        variables |= change
    return variables


class ParentDeathPipe:
    """Socket pair: the child reads end of file once the parent is gone, and sends the parent heartbeats."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self.fd = theirs.detach()
        self.environment = {VARIABLE: str(self.fd)}

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Keep the child's end open during the block, in which the child is started with ``fd`` and ``environment``."""
        try:
            yield
        except BaseException:
            self.close()
            raise
        finally:
            os.close(self.fd)

    def send(self, message: bytes) -> None:
        """Send a one-byte message, such as a reason to stop, to the child process, unless the child has ended."""
        with suppress(ConnectionError):
            self._ours.send(message)

    def has_beaten(self) -> bool:
        """Return whether the child process has sent a heartbeat since the last call."""
        try:
            return bool(self._ours.recv(2**16, socket.MSG_DONTWAIT))
        except OSError:  # nothing to read, or closed
            return False

    def close(self) -> None:
        """Close the parent's end; a child that still runs stops, as if its parent had died."""
        self._ours.close()


def start_child(
    command: Sequence[str], output: Path, *environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], ParentDeathPipe]:
    """Start a process in a session of its own, which Ctrl-C does not reach; its output is appended to a file."""
    pipe = ParentDeathPipe()
    with pipe.passed(), output.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=child_environment(*environment, pipe.environment),
            cwd=Path(__file__).resolve().parents[1],
            pass_fds=[pipe.fd],
            start_new_session=True,
        )
    return process, pipe


@contextmanager
def signals_handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call a function at SIGINT and SIGTERM during the block."""
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class PeriodicThread:
    """Thread that calls a function every few seconds, whatever the function raises."""

    def __init__(self, name: str, every_s: float, call: Callable[[], object]) -> None:
        self._every_s = every_s
        self._call = call
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait_s: float = 10.0) -> None:
        """Stop after the current call, and wait for its end; do nothing before the start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._call()
            except Exception:
                # The thread must survive a bug in one call.
                log.exception("%s failed", self._thread.name)
            self._stop.wait(self._every_s)


def beat() -> None:
    """Send a heartbeat to the parent process, unless it is gone or reads none."""
    if _parent is not None:
        with suppress(OSError):
            _parent.send(b".", socket.MSG_DONTWAIT)


def watch(on_message: Callable[[bytes], None], on_parent_gone: Callable[[], None]) -> bool:
    """Call a function for each one-byte message and one for the parent's death; return False without a lifeline."""
    global _parent  # noqa: PLW0603 - a process has one parent
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return False
    parent = _parent = socket.socket(fileno=int(text))
    parent.set_inheritable(False)

    def read() -> None:
        with suppress(ConnectionError):  # it left heartbeats unread
            while message := parent.recv(1):
                on_message(message)
        on_parent_gone()

    threading.Thread(target=read, name="lifeline", daemon=True).start()
    return True


def how_ended(code: int) -> str:
    """Return a phrase such as ``by SIGKILL`` or ``with exit code 1``; a negative code is a signal number."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _stop_this_process() -> None:
    from snf_worker.settings import load_settings  # noqa: PLC0415  # slow to import, and only needed here

    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(load_settings().kill_after_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module on the command line; end it by SIGTERM, then by SIGKILL, if the parent dies."""
    tune_process()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    watch(lambda _message: None, _stop_this_process)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    from snf_worker import process_setup as module  # noqa: PLW0406 - the one whose ``beat`` others import

    module.main()
