"""Evaluating a model as a job and on the command line, through a real broker, worker and process."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from snf_client.schemas.evaluations import EvaluationReport
from snf_runtime.images.codec import encode_png
from tests.end_to_end.support.service import await_job, snf
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import DIGITS, zipped

BODY: dict[str, Any] = {"type": "evaluate", "model": "mnist-snf-glow", "dataset": "mnist-mini"}


@pytest.fixture(scope="module")
def negatives(house: httpx.Client) -> str:
    """A dataset of negatives of digits on the service."""
    files = {f"{index:02d}.png": encode_png(255 - DIGITS[index]) for index in range(20)}
    made = upload(house, "negatives", ("negatives.zip", zipped(files)))
    assert made.status_code == 201, made.text
    return "negatives"


def test_a_job_leaves_a_report_in_two_forms(house: httpx.Client, negatives: str) -> None:
    answer = house.post("/v1/jobs", json=BODY | {"parameters": {"against": [negatives], "images": 40}})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["type"], job["queue"], job["model"]) == ("evaluate", "score", "mnist-snf-glow:1")
    used = house.delete(f"/v1/datasets/{negatives}")
    assert (used.status_code, used.json()["type"]) == (409, "dataset-in-use")
    done = await_job(house, job["id"], "succeeded")
    assert done["progress"]["step"] == done["progress"]["steps"] == 3 * 40 + 20
    assert done["result"]["auroc"][negatives] > 0.99
    assert done["result"]["false_alarms"][0]["alpha"] == 0.01

    result = house.get(done["links"]["result"])
    assert result.headers["content-type"] == "application/json"
    report = EvaluationReport.model_validate_json(result.content)
    assert report.sets[0].results[0].auroc == done["result"]["auroc"][negatives]
    for page in (
        house.get(done["links"]["result"], headers={"Accept": "text/html,application/xhtml+xml;q=0.9"}),
        house.get(done["links"]["result"], params={"format": "html"}),
    ):
        assert page.headers["content-type"].startswith("text/html")
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        assert page.headers["content-security-policy"] == policy
        assert page.text.startswith("<!DOCTYPE html>")
    strange = house.get(done["links"]["result"], params={"format": "pdf"})
    assert strange.status_code == 422
    events = house.get(f"/v1/jobs/{job['id']}/events").text
    assert "event: evaluated" in events


def test_the_command_line_answers_the_same_here_and_there(home: Path, house: httpx.Client, negatives: str) -> None:
    zipfile = home / "negatives.zip"
    zipfile.write_bytes(zipped({f"{index:02d}.png": encode_png(255 - DIGITS[index]) for index in range(20)}))
    assert snf(home, "datasets", "upload", negatives, str(zipfile)).returncode == 0
    page = home / "report.html"
    arguments = ["evaluate", "-m", "digits", "--normal", "mnist-mini", "--against", negatives, "--images", "40"]
    here = snf(home, *arguments, "--json", "--out", str(page))
    assert here.returncode == 0, here.stderr
    assert page.read_text().startswith("<!DOCTYPE html>")
    there = snf(home, *arguments, "--json", "--url", str(house.base_url))
    assert there.returncode == 0, there.stderr
    local, remote = (json.loads(one.stdout) for one in (here, there))
    for one in (local, remote):
        del one["created"]
    assert local == remote

    table = snf(home, *arguments)
    assert table.returncode == 0, table.stderr
    for baseline in (
        "log-likelihood-low",
        "log-likelihood-two-sided",
        "png-size",
        "intensity-moments",
        "pca-mahalanobis",
    ):
        assert baseline in table.stdout
    for wrong in (
        ["--against", "nothing"],
        ["--images", "1"],
        ["--out", str(home / "no" / "r.html")],
        ["-m", "nobody"],
    ):
        assert snf(home, *arguments, *wrong).returncode == 2
    assert snf(home, "evaluate", "-m", "mnist-snf-glow", "--normal", "mnist-mini").returncode == 2
