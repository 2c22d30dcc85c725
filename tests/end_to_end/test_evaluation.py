"""Evaluations, detection limits and recommendations: as jobs, by the client and on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from snf_client import Client, ProblemError
from snf_client.schemas.evaluations import EvaluationReport
from snf_client.schemas.recommendations import RecommendationRecord
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


LIMITED = "digits"
LIMIT = ["limit", LIMITED, "--data", "mnist-mini", "--images", "32", "--shapes", "missing-part", "--seed", "5"]


def test_the_limit_is_the_same_here_and_there_and_stands_in_the_card(home: Path, house: httpx.Client) -> None:
    picture = home / "limit.svg"
    here = snf(home, *LIMIT, "--json", "--out", str(picture))
    assert here.returncode == 0, here.stderr
    there = snf(home, *LIMIT, "--json", "--url", str(house.base_url))
    assert there.returncode == 0, there.stderr
    local, remote = (json.loads(one.stdout) for one in (here, there))
    changes = {"created", "job", "seconds"}
    assert {key: local[key] for key in local if key not in changes} == {
        key: remote[key] for key in remote if key not in changes
    }
    assert (local["job"], local["seed"], local["images"]) == (None, 5, 32)

    with Client(str(house.base_url)) as client:
        listed = client.limits.list(LIMITED)
        newest = listed.limits[0]
        assert (newest.limit.job, newest.in_use) == (remote["job"], listed.active == 0)
        assert client.limits.get(LIMITED, newest.number) == newest
        chart = client.limits.chart(LIMITED, newest.number)
        assert client.jobs.list(type="limit").jobs[0].id == remote["job"]
    answer = house.get(f"/v1/models/{LIMITED}/limits/{newest.number}/chart")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert answer.text == chart == picture.read_text()
    limit = remote["curves"][0]["limit"]
    for card in (house.get(f"/v1/models/{LIMITED}/card").text, snf(home, "models", "card", LIMITED).stdout):
        assert f"| missing part | {limit} pixels | " in card
        assert "seed 5" in card
    table = snf(home, *LIMIT)
    assert table.returncode == 0, table.stderr
    assert f"{limit} pixels" in table.stdout


SMALL_COMPARISON = ("image_size=27", "feature_side=64", "shapes=missing-part")
"""27 pixels are a size that no pixel flow takes: a comparison of seconds."""
RECOMMEND = ["recommend", "mnist-mini", *(word for setting in SMALL_COMPARISON for word in ("--set", setting))]


def test_the_proposal_is_the_same_here_and_there(
    home: Path, house: httpx.Client, house_home: Path, backbones: Path
) -> None:
    for folder in (home, house_home):
        shutil.copytree(backbones, folder / "backbones", dirs_exist_ok=True)
    there = snf(home, *RECOMMEND, "--json", "--url", str(house.base_url))
    assert there.returncode == 0, there.stderr
    remote = json.loads(there.stdout)
    table = snf(home, *RECOMMEND)
    assert table.returncode == 0, table.stderr
    limit = remote["families"][0]["curves"][0]["limit"]
    limits = table.stdout.partition("detection limits in pixels")[2]
    shown = next(line for line in limits.splitlines() if "missing part" in line)
    assert (str(limit) if limit is not None else "none") in shown
    assert "- pixels: snf-glow-small halves both sides" in " ".join(table.stdout.split())
    assert "proposal: features (snf-features)" in table.stdout
    command = " ".join(table.stdout.split()).partition("go on with: ")[2]
    assert command == "snf train --data mnist-mini --preset snf-features --set 'image_size=[27, 27]'"
    assert not (home / "recommendations" / "mnist-mini").exists()

    with Client(str(house.base_url)) as client:
        job = client.jobs.list(type="recommend").jobs[0]
        assert (job.id, job.model, job.queue) == (remote["job"], "", "train-cpu")
        result = client.jobs.result(job.id)
        assert isinstance(result, RecommendationRecord)
        assert result.model_dump(mode="json") == remote
        assert (result.proposal, result.parameters) == ("features", {"image_size": [27, 27]})
        with pytest.raises(ProblemError) as refused:
            client.jobs.recommend("mnist-mini", parameters={"minutes": 0})
        assert refused.value.status == 422
    outcome = snf(home, "jobs", "show", remote["job"], "--url", str(house.base_url)).stdout
    assert "proposes features (snf-features)" in " ".join(outcome.split())
