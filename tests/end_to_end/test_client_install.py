"""The client as a distribution of its own: installed alone, it scores images against a running service."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

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


def link_requirements(site: Path) -> None:
    """Link what the distributions of a folder need, and what that needs, from the environment of the tests."""
    waiting, linked = list(Distribution.discover(path=[str(site)])), set()
    while waiting:
        for requirement in map(Requirement, waiting.pop().requires or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            found = distribution(requirement.name)
            assert requirement.specifier.contains(found.version), requirement
            if found.name in linked:
                continue
            for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
                (site / name).symlink_to(str(found.locate_file(name)))
            linked.add(found.name)
            waiting.append(found)


def test_the_client_alone_scores_an_image(house: httpx.Client, tmp_path: Path) -> None:
    source, python = tmp_path / "client", tmp_path / "venv" / "bin" / "python"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    [site] = (tmp_path / "venv").glob("lib/*/site-packages")
    how = ["--quiet", "--no-compile", "--no-index", "--no-deps", "--no-build-isolation", "--target", site]
    subprocess.run([sys.executable, "-m", "pip", "install", *how, source], check=True, timeout=240)
    link_requirements(site)
    # Isolated mode: neither this source tree nor the environment of the tests can be imported.
    program = [python, "-I", "-c", PROGRAM, str(house.base_url), DIGITS[0]]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    wanted = score_one(house, "digits", DIGITS[0].read_bytes())
    assert answer["log_likelihood"] == pytest.approx(wanted, abs=1e-4)
    assert not SERVER_PACKAGES & set(answer["packages"])
    assert (site / "snf_client" / "py.typed").is_file()
