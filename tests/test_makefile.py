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
