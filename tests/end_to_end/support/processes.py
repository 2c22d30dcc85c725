"""The processes of an installation: which they are, what they hold, and their end."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tests.support.fork_server import NAME_LENGTH


def pid_of(home: Path, module: str = "snf_app.server") -> int:
    """The process of an installation that runs a module."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            runs = module.encode() in (path / "cmdline").read_bytes().split(b"\0")
            forked = (path / "comm").read_text() == f"{module[-NAME_LENGTH:]}\n"
            # A fork has the variables of the process that was forked, but its output goes to its own home.
            if (runs or forked) and (path / "fd" / "1").readlink().is_relative_to(home.resolve()):
                return int(path.name)
        except OSError:  # it has ended, or is another user's
            continue
    raise AssertionError(f"{module} does not run")


def kill(home: Path, module: str) -> None:
    """Kills the process of an installation that runs a module."""
    os.kill(pid_of(home, module), signal.SIGKILL)


def halted_training(home: Path) -> AbstractContextManager[int]:
    """Stops the trainer within the block, so that its job cannot end; yields its process id."""
    return halted(pid_of(home, "snf_worker.attempts.train"))


@contextmanager
def halted(pid: int) -> Iterator[int]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def told_to_stop(pid: int) -> bool:
    """Whether a halted process will get a SIGTERM when it goes on."""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(signals, 16) >> (signal.SIGTERM - 1) & 1 for signals in re.findall(r"Pnd:\s+(\w+)", status))


def rss(pid: int) -> int:
    """Resident memory of a process without the files it maps."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")
