"""Scoring a whole dataset as a job, over HTTP."""

import io
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from tests.end_to_end.support.service import await_job, score_one
from tests.support.paths import DIGITS

BODY: dict[str, Any] = {"type": "score", "dataset": "mnist-mini", "model": "mnist-snf-glow"}


def test_a_dataset_becomes_a_table_of_scores(house: httpx.Client) -> None:
    answer = house.post("/v1/jobs", json=BODY | {"parameters": {"images_per_part": 250, "alpha": 0.05}})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["type"], job["queue"], job["model"]) == ("score", "score", "mnist-snf-glow:1")
    early = house.get(f"/v1/jobs/{job['id']}/result")
    assert (early.status_code, early.json()["type"]) == (409, "job-has-no-result")
    done = await_job(house, job["id"], "succeeded")
    assert done["result"]["images"] == done["progress"]["step"] == 600
    result = house.get(done["links"]["result"])
    assert result.headers["content-type"] == "application/vnd.apache.parquet"
    table = parquet.read_table(io.BytesIO(result.content))
    assert table.schema.metadata[b"snf.alpha"] == b"0.05"
    scores = table.to_pylist()
    assert len(scores) == 600
    assert sum(row["is_anomaly"] for row in scores) == done["result"]["anomalies"]
    assert all((row["p_value"] <= 0.05) == row["is_anomaly"] for row in scores)


def test_a_row_is_what_scoring_one_image_answers(house: httpx.Client) -> None:
    files = [("file", (path.name, path.read_bytes(), "image/png")) for path in DIGITS[:12]]
    made = house.post("/v1/datasets", data={"name": "some-digits"}, files=files)
    assert made.status_code == 201, made.text
    job = house.post("/v1/jobs", json=BODY | {"dataset": "some-digits"}).json()
    done = await_job(house, job["id"], "succeeded")
    scores = {
        row["path"]: row["log_likelihood"]
        for row in parquet.read_table(io.BytesIO(house.get(done["links"]["result"]).content)).to_pylist()
    }
    assert scores.keys() == {path.name for path in DIGITS[:12]}
    for path in DIGITS[:3]:
        assert scores[path.name] == pytest.approx(score_one(house, "mnist-snf-glow", path.read_bytes()), abs=1e-4)
