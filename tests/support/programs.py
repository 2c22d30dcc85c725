"""Programs of this checkout, such as those of `examples/`, as forks, and so without the seconds that imports take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from tests.support.fork_server import Process, fork_server


def start_program(
    program: Path, *arguments: str | Path, cwd: Path, env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
) -> Process:
    """Starts `python PROGRAM ...` in a process of its own."""
    command = [sys.executable, "-m", "tests.support.program", *map(str, (program, *arguments))]
    return fork_server().popen(command, cwd=cwd, env=env, stdout=stdout, stderr=stderr)


def run_program(program: Path, *arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python PROGRAM ...` to its end, and returns its exit code and what it printed."""
    return run_module("tests.support.program", program, *arguments, **how)


def run_module(
    module: str, *arguments: str | Path, cwd: Path, env: Mapping[str, str], timeout: float = 280
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ...` to its end, and returns its exit code and what it printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = fork_server().popen(command, cwd=cwd, env=env, stdout=output, stderr=errors)
        try:
            code = process.wait(timeout)
        finally:
            if process.poll() is None:
                process.kill()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, code, output.read().decode(), errors.read().decode())


PROGRAM = """
import json, sys
from snf_app.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["snf", *arguments]
    try:
        main()
    except SystemExit as end:
        for stream in sys.stdout, sys.stderr:
            print("ended with", end.code, file=stream, flush=True)
"""


def in_turn(*commands: list[str]) -> list[str]:
    """Return a command line that runs commands as the command line does, and says how each of them ended."""
    return [sys.executable, "-c", PROGRAM, json.dumps(commands)]


# Programs that a shell runs in the background ignore the signal, and so does all that they start. The program resets
# it itself, because a function that runs between fork and exec is not safe beside threads.
_RESET_AND_RUN = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)


def interruptible(*words: str) -> list[str]:
    """Return the command ``python *words``, which SIGINT interrupts."""
    return [sys.executable, "-c", _RESET_AND_RUN, sys.executable, *words]
