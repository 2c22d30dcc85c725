"""The way of docs/library.md from an empty file to a served model: three files, installed, trained, served."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.support.service import environment, serving, snf
from tests.support.documents import FENCE
from tests.support.paths import DIGITS, ROOT
from tests.support.programs import run_module

NAMES = {"python": "sinh_arcsinh.py", "toml": "pyproject.toml", "json": "flow.json"}
FEW_STEPS = ("--max-steps", "6", "--set", "validations=1", "--set", "validation_images=20")


def write_files(folder: Path) -> None:
    """Write the blocks of the section under the names that it gives."""
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    section = page.split("### From an empty file to a served model\n")[1].split("\n### ")[0]
    blocks = [(language, text) for language, text in FENCE.findall(section) if language in NAMES]
    assert [language for language, _ in blocks] == list(NAMES)
    for language, text in blocks:
        assert f"`{NAMES[language]}`" in section
        (folder / NAMES[language]).write_text(text, encoding="utf-8")


def test_three_files_become_a_served_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, installed, home = (tmp_path / name for name in ("package", "installed", "home"))
    package.mkdir()
    home.mkdir()
    write_files(package)
    flow = str(package / "flow.json")
    train = ("train", "--data", "mnist-mini", "--architecture", flow, "--name", "tails", "--promote", *FEW_STEPS)
    unknown = snf(home, *train, shipped=False)
    assert (unknown.returncode, "got 'sinh-arcsinh'" in unknown.stderr) == (2, True)

    install = ("pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", installed)
    subprocess.run([sys.executable, "-m", *install, package], check=True, timeout=120)
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), *before]))
    trained = run_module("snf_app.cli.main", *train, cwd=ROOT, env=environment(home, shipped=False))
    assert trained.returncode == 0, trained.stderr

    with serving(home, shipped=False) as client:
        shown = client.get("/v1/models/tails").json()
        image = DIGITS[0].read_bytes()
        answer = client.post("/v1/models/tails/score", content=image, headers={"content-type": "image/png"})
        samples = client.get("/v1/models/tails/samples", params={"n": 2})
    assert "sinh-arcsinh" in json.dumps(shown)
    [result] = answer.json()["results"]
    assert result["status"] == "ok"
    assert -20_000 < result["log_likelihood"] < 0
    assert result["anomaly"]["p_value"] > 0
    assert samples.status_code == 200, samples.text
