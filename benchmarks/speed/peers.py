"""The peers' own environments below ``var/peers``, and child processes in them that compute on command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT

PEERS = ROOT / "var" / "peers"
SIDE = Path(__file__).parent / "peer_side"
INSTALL_S = 1500
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OPENVINO_TELEMETRY": "0",
}
"""No program that runs here sends telemetry."""


class PeerUnavailable(Exception):
    """A peer cannot be installed or does not start; the text says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: what is asked of the package index, and modules that must be there then."""

    name: str
    requirements: tuple[str, ...]
    imports: tuple[str, ...]

    def ready(self) -> Path:
        """Return its interpreter; it is installed where it is not there. Raises ``PeerUnavailable``."""
        folder = PEERS / self.name
        python, marker, wanted = folder / "bin" / "python", folder / "requirements.txt", "\n".join(self.requirements)
        if not marker.exists() or marker.read_text() != wanted:
            print(f"installs {self.name}: {' '.join(self.requirements)}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            self._do([sys.executable, "-m", "venv", str(folder)])
            # An old pip goes through versions one by one where packages disagree.
            self._do([*pip, "--upgrade", "pip"])
            self._do([*pip, *self.requirements])
            self._do([str(python), "-c", f"import {', '.join(self.imports)}"])
            marker.write_text(wanted)
        return python

    def _do(self, command: list[str]) -> None:
        try:
            subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_S, env=os.environ | QUIET, check=True
            )
        except subprocess.TimeoutExpired as error:
            raise PeerUnavailable(f"{self.name} cannot be installed: no end after {INSTALL_S} s") from error
        except subprocess.CalledProcessError as error:
            words = " ".join((error.stderr or error.stdout).split())[-300:]
            raise PeerUnavailable(f"{self.name} cannot be installed: {words}") from error

    def versions(self) -> dict[str, str]:
        """Return the versions of what was asked for by name."""
        code = (
            "import json, sys\nfrom importlib.metadata import version\n"
            "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        )
        command = [self.ready(), "-c", code, *map(name_of, self.requirements)]
        found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return found


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


FLOWS = Environment(
    "flows", ("torch>=2.10", "numpy>=2", "normflows>=1.7", "nflows>=0.14"), ("normflows", "nflows.transforms")
)


def peer_environment(folder: Path, threads: int) -> dict[str, str]:
    """Return the variables of a peer's process: as here, no settings of ours, no telemetry, its own folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SNF_") and k not in {"REDIS_URL", "PYTHONPATH"}}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return kept | QUIET | own


class Child:
    """A process that answers each line of JSON on its input with one on its output."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str]) -> None:
        self.log = folder / "child.log"
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=variables,
            )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its answer. Raises ``PeerUnavailable`` where the process fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise PeerUnavailable(f"the process ended: {' '.join(self.log.read_text().split())[-300:]}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise PeerUnavailable(found["error"])
        return found

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def flows_child(threads: int) -> Iterator[Child]:
    """Run ``peer_side/flows.py`` in its environment until the block ends. Raises ``PeerUnavailable``."""
    python = FLOWS.ready()
    with tempfile.TemporaryDirectory(prefix="snf-peer-") as name:
        folder = Path(name)
        with closing(
            Child([str(python), str(SIDE / "flows.py")], folder, peer_environment(folder, threads))
        ) as process:
            yield process
