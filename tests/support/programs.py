"""Programs of this checkout, such as those of `examples/`, as forks, and so without the seconds that imports take."""

from __future__ import annotations

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
