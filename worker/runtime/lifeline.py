"""A pipe that tells a child process that its parent is gone, on every platform and after kill -9 too.

The parent keeps the writing end and passes the reading end in `SNF_LIFELINE_FD`; end-of-file means that no
process holds the writing end any more. `python -m worker.runtime.lifeline MODULE` runs a module with such a watch.
"""

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

from worker.gc_tuning import relax_gc

VARIABLE = "SNF_LIFELINE_FD"


SECRETS = frozenset({"SNF_API_KEYS", "SNF_API_KEY"})
"""Variables that no child process inherits: anyone who can read a process's files under `/proc` sees them.

Their names count in any case, as they do for the settings.
"""


def child_environment(*changes: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this process without its keys, with ``changes`` applied in order."""
    variables = {name: value for name, value in os.environ.items() if name.upper() not in SECRETS}
    for change in changes:
        variables |= change
    return variables


class Lifeline:
    """The parent's side: `fd` goes to the child by `pass_fds`, `environment` to its variables."""

    def __init__(self) -> None:
        self.fd, self._writing = os.pipe()
        self.environment = {VARIABLE: str(self.fd)}

    def passed(self) -> None:
        """Closes the reading end here once the child has it."""
        os.close(self.fd)

    def send(self, message: bytes) -> None:
        """Sends a one-byte message; a child that is gone already needs none."""
        try:
            os.write(self._writing, message)
        except BrokenPipeError:
            return

    def close(self) -> None:
        """Lets the child see end-of-file."""
        os.close(self._writing)


def watch(on_message: Callable[[bytes], None], on_parent_gone: Callable[[], None]) -> bool:
    """Watches the parent in a thread; answers False where this process was started without a lifeline."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return False
    fd = int(text)
    os.set_inheritable(fd, False)

    def read() -> None:
        while message := os.read(fd, 1):
            on_message(message)
        on_parent_gone()

    threading.Thread(target=read, name="lifeline", daemon=True).start()
    return True


def _stop_this_process() -> None:
    from worker.settings import load_settings  # noqa: PLC0415  # slow to import, and only needed here

    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(load_settings().kill_after_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Runs the module named on the command line; TERM once the parent is gone, and KILL where that is not heard."""
    relax_gc()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    watch(lambda _message: None, _stop_this_process)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
