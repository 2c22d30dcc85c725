"""Scoring a whole dataset as a job, over HTTP."""

import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pyarrow import parquet

from tests.end_to_end.support.service import await_job, score_one, snf
from tests.support.paths import DIGITS

BODY: dict[str, Any] = {"type": "score", "dataset": "mnist-mini", "model": "digits"}


def test_a_dataset_with_images_that_the_model_refuses_ends_in_part_with_the_scores_of_the_others(
    house: httpx.Client, house_home: Path
) -> None:
    large = io.BytesIO()
    Image.open(DIGITS[12]).resize((30, 30)).save(large, "PNG")
    files = [("file", (path.name, path.read_bytes(), "image/png")) for path in DIGITS[:12]]
    files.append(("file", ("large.png", large.getvalue(), "image/png")))
    assert house.post("/v1/datasets", data={"name": "of-two-sizes"}, files=files).status_code == 201
    job = house.post("/v1/jobs", json=BODY | {"dataset": "of-two-sizes"}).json()
    done = await_job(house, job["id"], "partial")
    assert (done["result"]["images"], done["result"]["errors"], done["error"]) == (13, 1, None)
    assert done["finished_at"] is not None
    rows = parquet.read_table(io.BytesIO(house.get(done["links"]["result"]).content)).to_pylist()
    assert {row["path"]: row["error"] for row in rows if row["error"]} == {"large.png": "wrong-image-shape"}
    scores = {row["path"]: row["log_likelihood"] for row in rows if not row["error"]}
    assert scores.keys() == {path.name for path in DIGITS[:12]}
    for path in DIGITS[:3]:
        assert scores[path.name] == pytest.approx(score_one(house, "digits", path.read_bytes()), abs=1e-4)
    assert "retry" not in done["links"]
    assert [one["id"] for one in house.get("/v1/jobs", params={"status": "partial"}).json()["jobs"]] == [job["id"]]
    assert 'event: end\ndata: {"status": "partial"}\n' in house.get(f"/v1/jobs/{job['id']}/events").text
    watched = snf(house_home, "jobs", "watch", job["id"], "--url", str(house.base_url))
    assert watched.returncode == 4, watched.stderr


def test_a_dataset_without_an_image_that_the_model_takes_is_not_queued(house: httpx.Client) -> None:
    files = []
    for path in DIGITS[:12]:
        large = io.BytesIO()
        Image.open(path).resize((30, 30)).save(large, "PNG")
        files.append(("file", (path.name, large.getvalue(), "image/png")))
    assert house.post("/v1/datasets", data={"name": "of-large-digits"}, files=files).status_code == 201
    answer = house.post("/v1/jobs", json=BODY | {"dataset": "of-large-digits"})
    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert problem["pointer"] == "/body/dataset"
    assert "the model takes 28x28 pixels alone, the images have 30x30" in problem["detail"]
