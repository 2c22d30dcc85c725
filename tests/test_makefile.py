"""The Makefile: an environment that could not be made whole is made again."""

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

PYTHON = """#!/bin/sh
# As Python of Debian: without the package python3-venv, an environment without pip, and an error. In place of pip,
# which takes seconds to install, there is a file.
case "$*" in "-m venv"*)
    {python} -m venv --without-pip .venv || exit
    [ -e {installed} ] && exec touch .venv/pip
    exit 1 ;;
esac
exec {python} "$@"
"""


def test_an_environment_without_pip_is_made_again(tmp_path: Path) -> None:
    python, installed = tmp_path / "python", tmp_path / "python3-venv"
    python.write_text(PYTHON.format(installed=installed, python=sys.executable))
    python.chmod(0o755)
    words = ["make", "--file", str(ROOT / "Makefile"), f"PYTHON={python}", ".venv/bin/python"]
    first = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode != 0, first.stdout
    assert (tmp_path / ".venv").is_dir()
    installed.touch()
    subprocess.run(words, cwd=tmp_path, check=True)
    assert (tmp_path / ".venv/pip").is_file()
    subprocess.run([tmp_path / ".venv/bin/python", "-c", ""], check=True)


PIP = """#!/bin/sh
for n in $(seq 60); do
    echo "Collecting package$n"
    echo "  Downloading package$n-1-py3-none-any.whl.metadata (7.1 MB)"
    echo "  Downloading package$n-1-py3-none-any.whl (12 kB)"
done
echo "Downloading torch-2.10.0-cp311-none-linux_x86_64.whl (899.8 MB)"
[ -e broken ] && { echo "ERROR: no space" >&2; exit 1; }
echo "Installing collected packages: package1, torch"
"""


def test_an_installation_shows_its_steps_in_a_few_lines_and_fails_if_pip_does(tmp_path: Path) -> None:
    for file in ("pyproject.toml", "client/pyproject.toml", "runtime/pyproject.toml", "broken", ".venv/bin/python"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(PIP)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    words = ["make", "--file", str(ROOT / "Makefile"), ".venv/installed"]
    failed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "no space" in failed.stderr
    assert not (tmp_path / ".venv/installed").exists()
    (tmp_path / "broken").unlink()
    lines = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1:] == [
        "  25 packages found",
        "  50 packages found",
        "  downloads torch-2.10.0-cp311-none-linux_x86_64.whl (899.8 MB)",
        "  installs them ...",
    ]
    assert (tmp_path / ".venv/installed").exists()
