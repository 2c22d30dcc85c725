"""A program of this checkout, whose services are forked: `python -m tests.support.program FILE ...`.

Unlike a program that a user starts, it has the modules of the process that was forked, and what those read from the
environment when they were imported.
"""

import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.support.fork_server import Process, fork_server

SERVICES = {"up": "tests.support.forking_house", "serve": "snf_app.server"}
"""Commands of `snf` that start services, and the modules that do so as forks."""
popen = subprocess.Popen


def start(command: list[Any], **options: Any) -> Process:
    """Starts a process as `subprocess.Popen` does; a service is forked."""
    match command:
        case [sys.executable, "-m", "snf_app.cli.main", name] if name in SERVICES:
            return fork_server().popen([sys.executable, "-m", SERVICES[name]], cwd=Path.cwd(), **options)
    return popen(command, **options)


if __name__ == "__main__":
    # A fork lacks what Python does with Ctrl-C, and has the temporary folder of the process that was forked.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    with patch.object(subprocess, "Popen", start):
        runpy.run_path(sys.argv[0], run_name="__main__")
