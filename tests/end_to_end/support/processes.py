"""The processes of an installation: which they are, what they hold, and their end."""

import os
import signal
from pathlib import Path


def pid_of(home: Path, module: str = "app.server") -> int:
    """The process of an installation that runs a module."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            runs = module.encode() in (path / "cmdline").read_bytes().split(b"\0")
            if runs and f"SNF_HOME={home}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:  # it has ended, or is another user's
            continue
    raise AssertionError(f"{module} does not run")


def kill(home: Path, module: str) -> None:
    """Kills the process of an installation that runs a module."""
    os.kill(pid_of(home, module), signal.SIGKILL)


def rss(pid: int) -> int:
    """Resident memory of a process without the files it maps."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")
