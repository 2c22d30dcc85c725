"""Find and kill the process that listens on a Unix socket, even if it hangs and its socket takes no connection."""

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from snf_models.atomic_files import write_atomically

log = logging.getLogger(__name__)

_LOCAL_PEERPID = 0, 2
"""Level and name of the option of macOS, which Python has no names for."""


def listens(path: Path) -> bool:
    """Return whether a process listens on a Unix socket; a hanging one counts."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # as many connections wait as may
            return True
        except OSError:
            return False
    return True


def listener_pid(path: Path) -> int | None:
    """Return the id of the process that listens on a socket; None if there is none or it is not found out."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
            if sys.platform == "darwin":
                pid = probe.getsockopt(*_LOCAL_PEERPID)
            else:
                pid, _user, _group = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
    return pid if pid > 1 else None  # 0: it belongs to another container


def note_listener(path: Path, note: Path) -> None:
    """Write the id and the start time of a socket's process to ``note``; raise ``OSError`` if that fails."""
    pid = listener_pid(path)
    if pid is None:
        raise ProcessLookupError(f"expected a process that listens on {path}, got none")
    write_atomically(note, f"{pid} {_start_time(pid)}".encode())


def noted_pid(note: Path) -> int | None:
    """Return the id that :func:`note_listener` wrote if that process still runs, as its start time shows."""
    try:
        pid, _, started = note.read_text(encoding="utf-8").partition(" ")
    except FileNotFoundError:
        return None
    return int(pid) if started and _start_time(int(pid)) == started else None


def _start_time(pid: int) -> str:
    """Return when a process started, as the operating system writes it: an empty text if there is no such process."""
    if sys.platform == "darwin":
        command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    try:
        # Field 22, in ticks since the machine started. The name of the program, field 2, may contain blanks.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def listener_folder(path: Path, note: Path) -> Path | None:
    """Return the working folder of the process that listens on a socket or is named in ``note``, or None."""
    pid = _serving_pid(path, note)
    return _working_folder(pid) if pid is not None else None


def is_same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is gone, or may not be seen
        return False


def _serving_pid(path: Path, note: Path) -> int | None:
    # Without a listener the note may name the server of another installation, whose folder was copied.
    return listener_pid(path) or (noted_pid(note) if listens(path) else None)


def _working_folder(pid: int) -> Path | None:
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/lsof", "-a", "-d", "cwd", "-p", str(pid), "-F", "n"]
            lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
            return next((Path(line[1:]) for line in lines if line.startswith("n")), None)
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError as error:
        log.info("the folder of process %d cannot be found out: %s", pid, error)
        return None


def kill_listener(path: Path, note: Path, folder: Path, timeout: float = 5.0) -> bool:
    """Kill a socket's process if its working folder is ``folder``; return whether nothing listens afterwards."""
    pid = _serving_pid(path, note)
    found = _working_folder(pid) if pid is not None else None
    if pid is None or found is None or not is_same_folder(found, folder):
        return not listens(path)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    while listens(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
