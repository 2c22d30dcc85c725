"""The client as a distribution of its own: installed alone, it scores images against a running service."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.support.service import score_one
from tests.support.paths import DIGITS, ROOT

PROGRAM = """
import importlib.metadata
import json
import sys

from snf_client import Client

with Client(sys.argv[1]) as client:
    [image] = client.score("digits", sys.argv[2]).results
names = sorted(package.name.lower() for package in importlib.metadata.distributions())
print(json.dumps({"log_likelihood": image.log_likelihood, "packages": names}))
"""
SERVER_PACKAGES = {"torch", "fastapi", "celery", "redis", "scipy", "scikit-learn", "snf-density"}


def test_the_client_alone_scores_an_image(house: httpx.Client, tmp_path: Path) -> None:
    source, python = tmp_path / "client", tmp_path / "venv" / "bin" / "python"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-compile", source]
    installed = subprocess.run(install, capture_output=True, text=True, check=False, timeout=240)
    assert installed.returncode == 0, installed.stderr
    # Isolated mode: neither this source tree nor the environment of the tests can be imported.
    program = [python, "-I", "-c", PROGRAM, str(house.base_url), DIGITS[0]]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    wanted = score_one(house, "digits", DIGITS[0].read_bytes())
    assert answer["log_likelihood"] == pytest.approx(wanted, abs=1e-4)
    assert not SERVER_PACKAGES & set(answer["packages"])
    assert list((tmp_path / "venv").glob("lib/*/site-packages/snf_client/py.typed"))
