"""The peers' own environments below ``var/peers``, and child processes in them that compute on command.

    python -m benchmarks.speed.peers [NAME...]

makes the environments that are not there yet, or those named anew; a benchmark makes what it needs on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import cores

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "var" / "peers"
SIDE = Path(__file__).parent / "peer_side"
INSTALL_S = 1500
ANSWER_S = 600
TORCH = "torch>=2.10"

MODELS_NEED = ("jinja2", "numpy", "pillow", "pyarrow", "pydantic", "safetensors", "scikit-learn", "scipy", "torch")
"""Dependencies of the project that ``models`` imports: behind a framework, our engine runs from the source tree."""

QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "BENTOML_VERIFY_SSL": "True",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OPENVINO_TELEMETRY": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "SCARF_NO_ANALYTICS": "true",
}
"""Nothing that runs here tells anybody of it."""


class PeerUnavailable(Exception):
    """A peer cannot be installed or does not start; the text says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: what is asked of the package index, and what tells that it works."""

    name: str
    requirements: tuple[str, ...]
    imports: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return PEERS / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def ready(self) -> Path:
        """Return its interpreter; it is made where it is not there. Raises ``PeerUnavailable``."""
        marker = self.folder / "requirements.txt"
        wanted = "\n".join(self.requirements)
        if not marker.exists() or marker.read_text() != wanted:
            self.make()
            marker.write_text(wanted)
        return self.python

    def make(self) -> None:
        """Install it anew. Raises ``PeerUnavailable``."""
        print(f"installs {self.name}: {' '.join(self.requirements)}", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._do([sys.executable, "-m", "venv", str(self.folder)], "cannot make its environment")
        pip = [str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        # An old pip goes through versions one by one where packages disagree.
        self._do([*pip, "--upgrade", "pip"], "cannot be installed")
        self._do([*pip, *self.requirements], "cannot be installed")
        for module in self.imports:
            self._do([str(self.python), "-c", f"import {module}"], f"is installed, but {module} cannot be imported")

    def _do(self, command: list[str], fault: str) -> None:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_S, env=os.environ | QUIET, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise PeerUnavailable(f"{self.name} {fault}: no end after {INSTALL_S} s") from error
        if done.returncode != 0:
            words = " ".join((done.stderr or done.stdout).split())[-300:]
            raise PeerUnavailable(f"{self.name} {fault}: {words}")

    def versions(self) -> dict[str, str]:
        """Return the versions of what was asked for by name."""
        names = [requirement.split(">")[0].split("[")[0] for requirement in self.requirements]
        code = (
            "import json, sys\nfrom importlib.metadata import version\n"
            "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        )
        done = subprocess.run([self.python, "-c", code, *names], capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found


def models_dependencies() -> tuple[str, ...]:
    """Return those of the project's dependencies that ``models`` needs, as ``pyproject.toml`` has them."""
    given = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = [one for one in given if one.split(">")[0].split("[")[0].split("=")[0].split(";")[0].strip() in MODELS_NEED]
    extra = [one for one in given if one.startswith("openvino")] or ["openvino>=2025.4"]
    return (*found, *extra, "normflows")


def environments() -> dict[str, Environment]:
    """Return all environments by name: the flow libraries, and every framework with our engine's dependencies."""
    ours = models_dependencies()
    made = [
        Environment("flows", (TORCH, "numpy>=2", "normflows>=1.7", "nflows>=0.14"), ("normflows", "nflows.transforms")),
        Environment("fastapi", ("fastapi>=0.115", "uvicorn[standard]>=0.30", *ours), ("fastapi", "uvicorn")),
        Environment("litserve", ("litserve>=0.2.10", "python-multipart", *ours), ("litserve",)),
        Environment("bentoml", ("bentoml>=1.4", *ours), ("bentoml",)),
        Environment("ray", ("ray[serve]>=2.40", *ours), ("ray.serve",)),
    ]
    return {one.name: one for one in made}


def peer_environment(folder: Path, threads: int, **changes: str) -> dict[str, str]:
    """Return the variables of a peer's process: as here, no settings of ours, no telemetry, its own folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SNF_") and k not in {"REDIS_URL", "PYTHONPATH"}}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return kept | QUIET | own | changes


class Child:
    """A process that answers each line of JSON on its input with one on its output."""

    def __init__(self, python: Path, script: Path, folder: Path, threads: int, **changes: str) -> None:
        self.log = folder / f"{script.stem}.log"
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=peer_environment(folder, threads, **changes),
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its answer. Raises ``PeerUnavailable`` where the process fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
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

    def seconds(self, do: str, **arguments: Any) -> float:
        """Return the seconds that a command says it took."""
        return float(self.ask(do, **arguments)["seconds"])

    def stop(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def child(environment: str, script: str, threads: int | None = None, **changes: str) -> Iterator[Child]:
    """Run ``peer_side/<script>`` in a peer's environment until the block ends. Raises ``PeerUnavailable``."""
    python = environments()[environment].ready()
    with tempfile.TemporaryDirectory(prefix="snf-peer-") as folder:
        process = Child(python, SIDE / script, Path(folder), threads or cores(), **changes)
        try:
            yield process
        finally:
            process.stop()


def main() -> int:
    """Make environments; 1 where one cannot be made."""
    known = environments()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; these are made anew")
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.names or known:
        environment = known[name]
        try:
            if arguments.names:
                shutil.rmtree(environment.folder, ignore_errors=True)
            environment.ready()
            print(f"{name}: {environment.versions()}", flush=True)
        except PeerUnavailable as problem:
            failed += 1
            print(problem, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
