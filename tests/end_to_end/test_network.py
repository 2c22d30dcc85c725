"""The product sends nothing to other hosts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import IMPORT_PATH, ROOT

WATCH = ROOT / "tests/end_to_end/support/network_watch"


def new_namespace() -> list[str]:
    """The command that runs another one with the loopback device alone; empty where this system forbids that."""
    unshare = shutil.which("unshare")
    for command in ([unshare, "--net"], [unshare, "--user", "--map-root-user", "--net"]):
        if unshare and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []


def watched(arguments: list[str], folder: Path, **variables: str) -> tuple[str, str]:
    """The output of a Python process, and what it and its children would reach over the network."""
    watch, user_home = Path(shutil.copytree(WATCH, folder / "watch")), folder / "user"
    user_home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "CI"}  # libraries may send less there
    environment |= {"HOME": str(user_home), **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(watch), IMPORT_PATH])
    prefix = new_namespace() if "NETWORK_ALONE" in variables else []
    done = subprocess.run(
        [*prefix, sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, (watch / "reached").read_text()


def test_the_watch_sees_a_foreign_host(tmp_path: Path) -> None:
    sends = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    code = f"try:\n    {sends}\nexcept OSError:\n    pass"
    assert "192.0.2.1" in watched(["-c", code], tmp_path)[1]


def test_up_score_and_training_reach_no_other_host(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    alone = "1" if new_namespace() else "0"
    output, reached = watched(["-m", "tests.end_to_end.support.network_use", str(home)], tmp_path, NETWORK_ALONE=alone)
    assert reached == ""
    assert json.loads(output.splitlines()[-1])["without_route"] in ([0] if alone == "1" else [None])
    # A lasting id of the client would stand there.
    assert not [path for path in (tmp_path / "user").rglob("*") if "openvino" in path.name]


def test_openvino_is_imported_in_one_place() -> None:
    importing = [
        path.relative_to(ROOT).as_posix()
        for package in ("app", "worker", "models", "runtime", "benchmarks", "examples")
        for path in (ROOT / package).rglob("*.py")
        for line in path.read_text().splitlines()
        if line.split()[:2] in (["import", "openvino"], ["from", "openvino"])
    ]
    assert set(importing) == {"runtime/snf_runtime/scoring/openvino_engine.py"}


def test_importing_openvino_as_it_is_would_be_seen(tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry", reason="this OpenVINO brings no telemetry")
    assert "google-analytics" in watched(["-c", "import openvino, time; time.sleep(1)"], tmp_path)[1]
