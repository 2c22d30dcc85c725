"""The examples and stories as users run them: processes of their own against real services."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from snf_models.datasets import load_dataset
from tests.end_to_end.support import service
from tests.end_to_end.support.service import MNIST, serving
from tests.support.paths import DIGITS, IMPORT_PATH, ROOT
from tests.support.ports import free_port
from tests.support.programs import run_program, start_program
from tests.support.unmeasured import unmeasured
from tests.worker.support.helpers import until

EXAMPLES = ROOT / "examples"


def around(url: str) -> dict[str, str]:
    return os.environ | {"SNF_URL": url, "PYTHONPATH": IMPORT_PATH, "COLUMNS": "200"}


def pictures_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a temporary folder for the programs of a test; return a folder that they run in, and write nothing into."""
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    (folder / "temporary").mkdir()
    (folder / "current").mkdir()
    return folder / "current"


def ended(url: str, folder: Path, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_program(EXAMPLES / name, *arguments, cwd=folder, env=around(url))


def run(url: str, folder: Path, name: str, *arguments: str | Path) -> str:
    done = ended(url, folder, name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def noise(target: Path, seed: int = 0) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8)).save(target)


def copy(target: Path, paths: list[Path]) -> Path:
    target.mkdir(parents=True)
    for path in paths:
        (target / path.name).write_bytes(path.read_bytes())
    return target


def rows_of(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tour_of_the_client(house: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = pictures_in(tmp_path, monkeypatch)
    said = run(str(house.base_url), current, "python_client.py", "--model", "digits", "--steps", "4")
    assert said.count("the log-likelihood is") == 1
    assert "scored with tour:1" in said
    assert "  succeeded\n" in said
    (pictures,) = (tmp_path / "temporary").glob("snf-tour-*")
    assert f"{pictures / 'heat_map.png'}: the map sums to" in said
    with Image.open(pictures / "samples.png") as grid:
        assert grid.size == (8 * 28, 8 * 28)
    with Image.open(pictures / "heat_map.png") as picture:
        picture.load()
    assert not list(current.iterdir())


def test_curl_alone(house: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = pictures_in(tmp_path, monkeypatch)
    words = [EXAMPLES / "curl.sh", str(house.base_url), ROOT / "tests" / "data" / "mnist"]
    words += ["curl-tour", "4"]
    path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    first, again = (
        subprocess.run(
            words, cwd=current, env=os.environ | path, capture_output=True, text=True, timeout=240, check=False
        )
        for _ in range(2)
    )
    assert first.returncode == 0, first.stdout + first.stderr
    said = first.stdout
    assert "00027-4.png: -515." in said
    assert "   succeeded\n" in said
    assert said.endswith(", 1 image\n")
    for name in ("heat_map.png", "samples.png"):
        file, *_ = (tmp_path / "temporary").glob(f"*/{name}")
        with Image.open(file) as picture:
            picture.load()
    assert not list(current.iterdir())
    assert again.returncode == 1
    assert "dataset-taken" in again.stderr


def test_the_odd_one_is_on_top(house: httpx.Client, tmp_path: Path) -> None:
    folder = copy(tmp_path / "Digits & more", DIGITS)
    noise(folder / "<b>.png")
    (folder / "text.png").write_text("no image")
    words = ("odd_images.py", folder, "--preset", "snf-glow-tiny", "--max-steps", "4")
    said = run(str(house.base_url), tmp_path, *words)
    assert "│ 1  │ <b>.png" in said
    report = tmp_path / "Digits & more-odd.html"
    page = report.read_text()
    assert page.index("&lt;b&gt;.png") < page.index(DIGITS[0].name)
    assert "<b>.png" not in page, "names are escaped"
    assert page.count("data:image/png;base64,") == 2 * 37
    assert "http" not in page.replace("http-equiv", ""), "it needs nothing else"
    assert "text.png: The file is not an image" in page
    assert "learned most of these very images" in page
    jobs = house.get("/v1/jobs").json()["jobs"]
    assert run(str(house.base_url), tmp_path, *words).endswith(f"report: {report}\n")
    assert house.get("/v1/jobs").json()["jobs"] == jobs, "its model is used again"


def test_a_wrong_label_is_found(house: httpx.Client, tmp_path: Path) -> None:
    for name in ("digits", "noise"):
        (tmp_path / "sorted" / name).mkdir(parents=True)
    for place, pixels in enumerate(load_dataset("mnist-mini", None).train[:60, 0]):
        Image.fromarray(pixels).save(tmp_path / "sorted" / "digits" / f"{place}.png")
        noise(tmp_path / "sorted" / ("digits" if place in (9, 19) else "noise") / f"noise-{place}.png", place)
    words = ("odd_images.py", "sorted", "--labels", "--preset", "snf-glow-tiny", "--max-steps", "4")
    run(str(house.base_url), tmp_path, *words, "--doubt", "3", "--report", "labels.html")
    page = (tmp_path / "labels.html").read_text()
    doubted, _strangest = page.split("<h2>")[1:]
    assert "Perhaps under the wrong label" in doubted
    # P-values of noise among noise are evenly spread: one of the two may be small by chance.
    assert "digits/noise-9.png" in doubted or "digits/noise-19.png" in doubted
    assert "looks like: noise" in doubted
    assert "looks like: digits" not in doubted


@pytest.mark.parametrize("content", ["notes of mine\nmore notes", "file,why\r\na.png,so\r\nhalf"])
def test_a_file_that_is_no_score_table_stays_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "notes").write_text(content, newline="")
    words = ("watch_folder.py", tmp_path / "incoming", "--model", "any", "--table", "notes", "--once")
    done = ended("http://127.0.0.1:1", tmp_path, *words)
    assert (done.returncode, "notes has other columns than file, " in done.stderr) == (1, True)
    assert (tmp_path / "notes").read_bytes() == content.encode()


def test_a_folder_is_watched_across_restarts(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(service, "free_port", lambda: port)
    incoming = copy(tmp_path / "incoming", DIGITS[:3])
    noise(incoming / "noise.png")
    (incoming / "text.png").write_text("no image")
    table, said, complaints = tmp_path / "incoming-scores.csv", tmp_path / "said", tmp_path / "complaints"
    url = f"http://127.0.0.1:{port}"
    words = (
        "watch_folder.py", incoming, "--model", "mnist-snf-glow", "--anomalies", "strange", "--every", "0.2",
    )  # fmt: skip
    with said.open("ab") as output, complaints.open("ab") as errors:
        first = start_program(
            EXAMPLES / words[0], *words[1:], cwd=tmp_path, env=around(url), stdout=output, stderr=errors
        )
    try:
        until(lambda: "trying again" in complaints.read_text())
        with serving(home, shipped=MNIST) as client:
            until(lambda: len(rows_of(table)) == 5)
            assert client.get("/v1/models/mnist-snf-glow").json()["drift"][1]["source"] == "incoming"
            second = ended(url, tmp_path, *words)
            assert (second.returncode, f"another program writes {table}" in second.stderr) == (1, True)
        copy(tmp_path / "more", DIGITS[3:4])
        (tmp_path / "more" / DIGITS[3].name).rename(incoming / DIGITS[3].name)
        with serving(home, shipped=MNIST):
            until(lambda: len(rows_of(table)) == 6)
            first.send_signal(signal.SIGINT)
            assert first.wait(30) == 0
            with table.open("a") as file:
                file.write("half a row,")
            (incoming / DIGITS[4].name).write_bytes(DIGITS[4].read_bytes())
            run(url, tmp_path, *words, "--once")
            (incoming / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
            last = ended(url, tmp_path, *words, "--once")
            assert (last.returncode, "not every image was judged" in last.stderr) == (4, True)
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()

    rows = {row["file"]: row for row in rows_of(table)}
    assert len(rows) == len(rows_of(table)) == 8
    assert rows["text.png"]["why"].startswith("The file is not an image")
    assert float(rows["00027-4.png"]["log_likelihood"]) == pytest.approx(-515.775, abs=0.01)
    assert [name for name, row in rows.items() if row["is_anomaly"] == "True"] == ["noise.png"]
    [kept, heat_map] = sorted((tmp_path / "strange").iterdir(), key=lambda path: len(path.name))
    assert kept.read_bytes() == (incoming / "noise.png").read_bytes()
    with Image.open(heat_map) as picture:
        picture.load()
    assert "ANOMALY  p=0.0002  noise.png" in said.read_text()
    assert complaints.read_text().endswith("watch_folder: stopped\n")


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
