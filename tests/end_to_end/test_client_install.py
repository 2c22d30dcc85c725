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


def link_requirements(package: Distribution, folder: Path) -> None:
    """Gives a folder of packages what a package requires, and what that requires, as it is installed for these tests.

    To install it anew takes several seconds of a core.
    """
    for requirement in map(Requirement, package.requires or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        required = distribution(requirement.name)
        assert required.version in requirement.specifier, f"{requirement} is not installed for these tests"
        tops = {file.parts[0] for file in required.files or []} - {"..", "__pycache__"}
        if not any((folder / top).exists() for top in tops):
            for top in tops:
                (folder / top).symlink_to(Path(str(required.locate_file(top))))
            link_requirements(required, folder)


def test_the_client_alone_scores_an_image(house: httpx.Client, tmp_path: Path) -> None:
    source, python = tmp_path / "client", tmp_path / "venv" / "bin" / "python"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    [packages] = (tmp_path / "venv").glob("lib/*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    here = ["--target", packages, "--no-deps", "--no-build-isolation"]
    install = [*pip, "install", "--quiet", "--no-compile", *here, source]
    installed = subprocess.run(install, capture_output=True, text=True, check=False, timeout=240)
    assert installed.returncode == 0, installed.stderr
    [client] = packages.glob("snf_density_client-*.dist-info")
    link_requirements(Distribution.at(client), packages)
    # Isolated mode: neither this source tree nor the environment of the tests can be imported.
    program = [python, "-I", "-c", PROGRAM, str(house.base_url), DIGITS[0]]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    wanted = score_one(house, "digits", DIGITS[0].read_bytes())
    assert answer["log_likelihood"] == pytest.approx(wanted, abs=1e-4)
    assert not SERVER_PACKAGES & set(answer["packages"])
    assert (packages / "snf_client" / "py.typed").is_file()
