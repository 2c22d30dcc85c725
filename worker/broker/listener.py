"""The process that listens on a Unix socket, which the operating system names even if that process hangs."""

import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

_LOCAL_PEERPID = 0, 2
"""Level and name of the option of macOS, which Python has no names for."""


def listens(path: Path) -> bool:
    """Return whether a process listens on a Unix socket, even if it hangs and takes no more connections."""
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
    """Return the id of the process that listens on a Unix socket, None if there is none or it cannot be found out."""
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


def kill_listener(path: Path, timeout: float = 5.0) -> bool:
    """Kill the process that listens on a Unix socket; return whether nothing listens there afterwards.

    Args:
        path: Path of the socket.
        timeout: Longest wait for the end of the process in seconds.
    """
    pid = listener_pid(path)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    while listens(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
