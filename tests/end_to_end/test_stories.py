"""The three stories as users run them, at a small size; each checks its own numbers and prints them at its end."""

import re
from pathlib import Path

import httpx

from tests.support.paths import IMPORT_PATH, ROOT
from tests.support.programs import run_program
from tests.support.unmeasured import unmeasured

STORIES = ROOT / "examples" / "stories"


def told(story: str, folder: Path, *arguments: str, url: str = "") -> str:
    """What a story prints; it must end well."""
    clean = {name: value for name, value in unmeasured().items() if not name.startswith("SNF_")}
    own = {"PYTHONPATH": IMPORT_PATH, "SNF_URL": url, "OMP_NUM_THREADS": "1"}
    done = run_program(STORIES / story, *arguments, cwd=folder, env=clean | own)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_inspection(house: httpx.Client, tmp_path: Path) -> None:
    size = ("--images", "60", "--train", "300", "--steps", "2", "--name", "inspection-story")
    printed = told("inspection.py", tmp_path, *size, url=str(house.base_url))
    counts = re.search(r"(\d+) normal, (\d+) anomalies, (\d+) not judged", printed)
    assert counts is not None, printed
    assert sum(map(int, counts.groups())) == 60


def test_backend(tmp_path: Path) -> None:
    printed = told("backend.py", tmp_path)
    counts = re.search(r"^(\d+) of (\d+) documented errors provoked, (\d+) not$", printed, re.MULTILINE)
    assert counts is not None, printed
    provoked, documented, others = map(int, counts.groups())
    assert provoked + others == documented
    assert provoked >= 55


def test_researcher(tmp_path: Path) -> None:
    printed = told("researcher.py", tmp_path, "--steps", "3", "--images", "8")
    assert re.search(r"snf-glow-tiny .* degrees .* nats .* 8 of 8", printed), printed
    assert re.search(r"exact-glow-tiny .* exact .* nats .* 8 of 8", printed), printed
