"""A model on the edge: exported, and run where neither torch nor any other package of the service can be imported."""

from __future__ import annotations

import json
import re
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from snf_client.images import files_in
from snf_runtime.errors import ANOMALY, FAILED, NOT_JUDGED, OK, USAGE
from snf_runtime.exported.manifest import read_export_manifest
from snf_runtime.images.files import image_files
from tests.end_to_end.support.service import files, snf
from tests.support.paths import DIGITS, ROOT

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

NEEDED = ("numpy", "numpy.libs", "PIL", "pillow.libs", "openvino")
ABSENT = (
    "torch",
    "scipy",
    "sklearn",
    "pydantic",
    "pyarrow",
    "safetensors",
    "snf_app",
    "snf_models",
    "snf_worker",
    "snf_client",
)
PROGRAM = f"""
import sys, importlib.util
assert [name for name in {ABSENT} if importlib.util.find_spec(name)] == []
from snf_runtime.__main__ import main
code = main(sys.argv[1:])
known = sys.stdlib_module_names | {{"numpy", "PIL", "openvino", "snf_runtime", "__main__"}}
foreign = {{name.partition(".")[0] for name, module in sys.modules.items() if module}} - known
print("foreign:", sorted(name for name in foreign if not name.startswith(("_", "cython"))), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runner and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("edge") / "packages"
    folder.mkdir()
    (folder / "snf_runtime").symlink_to(ROOT / "runtime" / "snf_runtime")
    for name in NEEDED:
        (found,) = [path for place in site.getsitepackages() if (path := Path(place) / name).exists()]
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture(scope="module")
def exported(house_home: Path, house: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "digits"
    done = snf(house_home, "export", "digits", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digits:1 with calibration 0 of ")
    return folder


def runner(packages: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the runner without the packages of this environment: no ``site``, no variables."""
    start = f"import sys; sys.path.insert(0, {str(packages)!r}); exec({PROGRAM!r})"
    command = [sys.executable, "-I", "-S", "-c", start, *map(str, arguments)]
    return subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=120, check=False)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_scores_and_verdicts_are_those_of_the_service(
    packages: Path, exported: Path, house: httpx.Client, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(DIGITS):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "100.png")
    paths = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
    done = runner(packages, exported, folder, "--json", "--alpha", "0.1", "--fail-on-anomaly")
    assert done.returncode == ANOMALY, done.stderr
    assert "foreign: []" in done.stderr
    assert f"{len(paths)} images judged, " in done.stderr
    answer = house.post("/v1/models/digits/score", params={"alpha": 0.1}, files=files(*paths))
    assert answer.status_code == 200, answer.text
    for got, want, path in zip(lines(done), answer.json()["results"], paths, strict=True):
        assert got["name"] == str(path)
        assert (got["log_likelihood"], got["bits_per_dim"]) == (want["log_likelihood"], want["bits_per_dim"])
        anomaly = want["anomaly"]
        for field in ("p_value", "is_anomaly", "alpha", "score"):
            assert got[field] == anomaly[field], field
        assert got["statistic"] == pytest.approx(anomaly["statistic"], abs=1e-6)
        assert [reason["text"] for reason in got["reasons"]] == [reason["text"] for reason in anomaly["reasons"]]
    assert lines(done)[-1]["is_anomaly"]


def test_what_the_runner_says_and_how_it_ends(packages: Path, exported: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    table = runner(packages, exported, DIGITS[0], text)
    assert table.returncode == NOT_JUDGED
    header, digit, error = table.stdout.splitlines()
    assert header.split() == ["p-value", "statistic", "log-likelihood", "verdict", "image"]
    assert str(DIGITS[0]) in digit
    assert "The file is not an image" not in table.stdout
    assert error.endswith(f"{text}: expected one of PNG, JPEG, WEBP, BMP, TIFF, GIF")
    assert table.stderr.startswith("1 image judged, ")
    assert runner(packages, exported, DIGITS[0], "--regions", "--json").returncode == OK
    for arguments, code, message in (
        ((exported, tmp_path / "none.png"), USAGE, "does not exist"),
        ((exported, DIGITS[0], "--alpha", "1e-9"), USAGE, "smallest attainable"),
        ((tmp_path, DIGITS[0]), FAILED, "expected a folder of `snf export`"),
    ):
        done = runner(packages, *arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert message in done.stderr


def test_exit_codes_are_the_documented_ones() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    table = page.partition("\n## Exit codes\n")[2].partition("\n\nThe last line")[0]
    meanings = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    words = {OK: "success", ANOMALY: "an anomaly", USAGE: "wrong usage", FAILED: "failed", NOT_JUDGED: "not judged"}
    assert {code for code in meanings if code < 100} == words.keys()
    assert all(text in meanings[code] for code, text in words.items())


def test_folders_are_read_as_the_client_reads_them(tmp_path: Path) -> None:
    for name in ("b/10.png", "b/9.png", "a.txt", ".hidden.png", "Thumbs.db", "b/c/1", "__MACOSX/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "b" / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").symlink_to(tmp_path / "b")
    content = files_in(tmp_path)
    assert image_files(tmp_path) == (content.files, content.skipped)
    assert len(content.files) == 5


def test_an_export_replaces_an_export_alone(exported: Path, house_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for options, message in (((), "exists already"), (("--force",), "is no exported model")):
        done = snf(house_home, "export", "digits", str(folder), *options)
        assert done.returncode == USAGE
        assert message in done.stderr
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    folder.rmdir()
    for options in ((), ("--force",)):
        done = snf(house_home, "export", "digits", str(folder), "--format", "onnx", *options)
        assert done.returncode == OK, done.stderr
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".json", ".md", ".npz", ".onnx"]
    # The runner repeats the score of the stored image by OpenVINO, so it is exported by OpenVINO.
    assert snf(house_home, "export", "digits", str(folder), "--force", engine="torch").returncode == OK
    assert read_export_manifest(folder).pinned == read_export_manifest(exported).pinned
    (tmp_path / "link").symlink_to(folder)
    done = snf(house_home, "export", "digits", str(tmp_path / "link"), "--force")
    assert (done.returncode, "got the link" in done.stderr) == (USAGE, True)
    assert snf(house_home, "export", "digits", str(tmp_path / "no" / "folder")).returncode == USAGE
    assert snf(house_home, "export", "nobody", str(tmp_path / "other")).returncode == USAGE
    done = snf(house_home, "export", "digits", str(tmp_path / "other"), url="http://127.0.0.1:1")
    assert done.returncode == USAGE
    assert "works on this machine alone" in done.stderr
