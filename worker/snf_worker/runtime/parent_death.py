"""Child processes that detect the death of their parent, even by ``kill -9``, and inherit no API keys."""

import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from snf_worker.process_setup import tune_process

VARIABLE = "SNF_LIFELINE_FD"

_parent: socket.socket | None = None
"""The end of the socket pair of this process, once it is watched."""

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
    from snf_worker.runtime import parent_death as lifeline  # noqa: PLW0406 - the one whose ``beat`` others import

    lifeline.main()
