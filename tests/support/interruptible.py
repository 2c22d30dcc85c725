"""A Python command that Ctrl-C ends, however the tests were started."""

from __future__ import annotations

import sys

# Programs that a shell runs in the background ignore the signal, and so does all that they start. The program resets
# it itself, because a function that runs between fork and exec is not safe beside threads.
_RESET_AND_RUN = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)


def interruptible(*words: str) -> list[str]:
    """Return the command ``python *words``, which SIGINT interrupts."""
    return [sys.executable, "-c", _RESET_AND_RUN, sys.executable, *words]
