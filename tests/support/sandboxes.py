"""Processes that read what users send: forks, unless a test looks at what a new process does."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from tests.support.fork_server import Process, fork_server, started_by

NEW = "TEST_NEW_SANDBOXES"
"""Variable of processes whose sandboxes are new processes."""


def forked() -> AbstractContextManager[None]:
    """Sandboxes of this process are forks, which start in milliseconds."""
    return started_by(_start, "snf_worker.sandbox.process")


def _start(command: Sequence[str], **options: Any) -> Process:
    return subprocess.Popen(command, **options) if NEW in os.environ else fork_server().popen(command, **options)
