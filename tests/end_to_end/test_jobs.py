"""Jobs over HTTP, through a real broker, worker and attempts: trained, paused, tried again, scored and deleted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pyarrow import parquet

from tests.end_to_end.support.jobs import ENDLESS, FEW_IMAGES, SMALL, TRAINING, submit, written
from tests.end_to_end.support.processes import halted_training, told_to_stop
from tests.end_to_end.support.service import await_job, score_one, snf
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until


@pytest.fixture(scope="module")
def elsewhere(house: httpx.Client) -> Iterator[dict[str, Any]]:
    """A job for a device that no worker has, which was there before the training."""
    job = submit(house, model="on-a-gpu", device="cuda")
    yield job
    house.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()


@pytest.fixture(scope="module")
def trained(house: httpx.Client, elsewhere: dict[str, Any]) -> dict[str, Any]:
    """The finished training of an architecture."""
    job = submit(house, model="trained", device="cpu", architecture=SMALL)
    assert job["status"] == "queued"
    assert (job["preset"], job["architecture"]) == ("small-lu", SMALL)
    return await_job(house, job["id"], "succeeded")


def test_a_trained_model_is_served_without_a_restart(house: httpx.Client, trained: dict[str, Any]) -> None:
    assert trained["result"]["ref"] == "trained:1"
    assert trained["progress"]["steps"] == 4
    assert trained["metrics"]["bits_per_dim"] > 0
    assert trained["error"] is None
    assert trained["finished_at"] >= trained["started_at"] >= trained["created_at"]
    assert score_one(house, "trained:1", DIGITS[0].read_bytes()) < 0
    detail = house.get(trained["links"]["model"]).json()
    assert (detail["state"], detail["version"]) == ("ready", 1)
    assert detail["serving"]["log_det_digest"] == detail["manifest"]["log_dets"]["weights_sha256"]
    again = house.post(f"/v1/jobs/{trained['id']}/cancel")
    assert (again.status_code, again.json()["type"]) == (409, "job-state-conflict")


def test_a_job_for_a_device_that_no_worker_has_waits_for_it(
    house: httpx.Client, elsewhere: dict[str, Any], trained: dict[str, Any]
) -> None:
    assert (elsewhere["queue"], elsewhere["estimate"]["fits"]) == ("train-gpu", None)
    (worker,) = house.get("/v1/workers").json()["workers"]
    assert (worker["device"], worker["queues"]) == ("cpu", ["train-cpu", "score"])
    assert trained["created_at"] >= elsewhere["created_at"]
    assert house.get(f"/v1/jobs/{elsewhere['id']}").json()["status"] == "queued"


def test_an_architecture_is_trained_in_place_of_a_preset(house: httpx.Client, trained: dict[str, Any]) -> None:
    manifest = house.get("/v1/models/trained:1").json()["manifest"]
    assert [layer["type"] for layer in manifest["architecture"]["levels"][0]["steps"]] == [
        "actnorm",
        "lu-1x1",
        "affine-coupling",
    ]
    listed = {one["name"]: one for one in house.get("/v1/models").json()["models"]}
    assert listed["trained"]["architecture"] == "small-lu: 1 level, 3 layers"
    summary = "small-lu: 1 level, 3 layers: 1 actnorm, 1 lu-1x1, 1 affine-coupling of width 4"
    assert summary in house.get("/v1/models/trained:1/card").text


def test_the_estimate_of_a_training_follows_from_an_earlier_one(house: httpx.Client, trained: dict[str, Any]) -> None:
    assert trained["estimate"]["seconds"] is None
    request = {name: value for name, value in TRAINING.items() if name != "preset"}
    request |= {"model": "any-flow", "architecture": SMALL}

    def estimate(**changes: Any) -> dict[str, Any]:
        asked = request | {"parameters": request["parameters"] | changes}
        answer: dict[str, Any] = house.post("/v1/jobs/estimate", json=asked).raise_for_status().json()["estimate"]
        return answer

    found = estimate()
    assert 0 < found["seconds"] < 600
    assert 1e8 < found["memory_bytes"] < 1e11
    assert found["fits"] is True
    seconds = [estimate(max_steps=steps)["seconds"] for steps in (1000, 2000, 3000)]
    assert seconds[0] > found["seconds"]
    assert seconds[2] - seconds[1] == pytest.approx(seconds[1] - seconds[0])
    assert estimate(batch_size=9)["seconds"] is estimate(batch_size=9)["memory_bytes"] is None


STEPS = 240
SHORT: dict[str, Any] = FEW_IMAGES | {"max_steps": STEPS, "validations": 1}


def await_step(client: httpx.Client, job_id: str, step: int) -> dict[str, Any]:
    path = f"/v1/jobs/{job_id}"
    until(lambda: client.get(path).json()["progress"].get("step", 0) >= step, 120)
    job: dict[str, Any] = client.get(path).json()
    return job


def weights(client: httpx.Client, ref: str) -> str:
    digest: str = client.get(f"/v1/models/{ref}").json()["manifest"]["log_dets"]["weights_sha256"]
    return digest


def test_a_paused_job_frees_its_device_and_goes_on_where_it_was(house: httpx.Client, house_home: Path) -> None:
    job = submit(house, model="with-a-pause", architecture=SMALL, parameters=SHORT)
    until(lambda: written(house_home, job["id"], "metrics"))
    with halted_training(house_home) as trainer:
        until(lambda: house.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
        asked = house.post(f"/v1/jobs/{job['id']}/pause")
        assert (asked.status_code, asked.json()["pause_requested"]) == (202, True)
        until(lambda: told_to_stop(trainer))
    paused = await_job(house, job["id"], "paused")
    assert 0 < paused["checkpoint_step"] < STEPS
    assert (paused["finished_at"], paused["pause_requested"]) == (None, False)
    assert paused["links"]["resume"] == f"/v1/jobs/{job['id']}/resume"

    straight = submit(house, model="straight", architecture=SMALL, parameters=SHORT)
    await_job(house, straight["id"], "succeeded")
    assert house.get(f"/v1/jobs/{job['id']}").json()["status"] == "paused"

    assert house.post(f"/v1/jobs/{job['id']}/resume").json()["status"] == "queued"
    again = house.post(f"/v1/jobs/{job['id']}/resume")
    assert (again.status_code, again.json()["type"]) == (409, "job-state-conflict")
    done = await_job(house, job["id"], "succeeded")
    assert done["attempts"] == 2
    assert weights(house, "with-a-pause") == weights(house, "straight")


def test_a_queued_job_is_paused_at_once_and_may_be_cancelled(house: httpx.Client) -> None:
    waiting = submit(house, model="waiting", device="cuda")  # which the worker does not have
    assert house.get(f"/v1/jobs/{waiting['id']}").json()["place_in_line"] is not None
    assert house.post(f"/v1/jobs/{waiting['id']}/pause").json()["status"] == "paused"
    assert waiting["id"] in {job["id"] for job in house.get("/v1/jobs", params={"status": "paused"}).json()["jobs"]}
    newer = submit(house, model="newer", device="cuda")
    page = house.get("/v1/jobs", params={"limit": 1}).json()
    following = house.get("/v1/jobs", params={"limit": 1, "after": page["next"]}).json()
    assert [job["id"] for job in (*page["jobs"], *following["jobs"])] == [newer["id"], waiting["id"]]
    for job in (newer, waiting):
        assert house.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    refused = house.post(f"/v1/jobs/{waiting['id']}/resume")
    assert (refused.status_code, refused.json()["type"]) == (409, "job-state-conflict")


def test_a_running_job_is_cancelled_and_another_try_goes_on_from_its_checkpoint(house: httpx.Client) -> None:
    job = submit(house, model="tried-again", architecture=SMALL, parameters=ENDLESS)
    await_step(house, job["id"], 5)
    refused = house.post(f"/v1/jobs/{job['id']}/retry")
    assert (refused.status_code, refused.json()["type"]) == (409, "job-state-conflict")
    asked = house.post(f"/v1/jobs/{job['id']}/cancel")
    assert (asked.status_code, asked.json()["cancel_requested"]) == (202, True)
    cancelled = await_job(house, job["id"], "cancelled")
    assert cancelled["result"] is None
    assert house.get("/v1/models/tried-again").status_code == 404

    answer = house.post(f"/v1/jobs/{job['id']}/retry")
    assert answer.status_code == 202
    retried = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{retried['id']}"
    assert (retried["retry_of"], retried["parameters"]) == (job["id"], ENDLESS)
    assert house.post(f"/v1/jobs/{job['id']}/retry").json()["id"] == retried["id"], "asked twice, queued once"
    assert house.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled", "what is over never changes"
    going = await_step(house, retried["id"], 1)
    # It says first where it starts.
    assert going["progress"]["step"] >= cancelled["checkpoint_step"] > 0
    house.post(f"/v1/jobs/{retried['id']}/cancel")
    await_job(house, retried["id"], "cancelled")


def test_a_job_is_deleted_with_its_files_once_it_has_ended(house: httpx.Client, house_home: Path) -> None:
    waiting = submit(house, model="to-delete", device="cuda")["id"]
    refused = house.delete(f"/v1/jobs/{waiting}")
    assert (refused.status_code, refused.json()["type"]) == (409, "job-state-conflict")
    assert refused.json()["detail"] == f"job {waiting} is queued; cancel it first or wait for its end"
    ended = house.post(f"/v1/jobs/{waiting}/cancel").json()
    assert ended["links"]["delete"] == f"/v1/jobs/{waiting}"
    folder = house_home / "jobs" / waiting
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer.log").write_text("a line\n")
    assert house.get(f"/v1/jobs/{waiting}/log").text == "a line\n"

    deleted = house.delete(f"/v1/jobs/{waiting}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert not folder.exists()
    for call in (house.get(f"/v1/jobs/{waiting}"), house.get(f"/v1/jobs/{waiting}/log")):
        assert (call.status_code, call.json()["type"]) == (404, "job-not-found")
    assert waiting not in {job["id"] for job in house.get("/v1/jobs").json()["jobs"]}
    assert house.delete(f"/v1/jobs/{waiting}").status_code == 404
    assert house.delete("/v1/jobs/..%2fdatasets").status_code == 404
    audit = (house_home / "logs" / "audit.jsonl").read_text()
    assert f'"method": "DELETE", "path": "/v1/jobs/{waiting}", "operation": "delete_job"' in audit


def test_head_of_events_and_files_has_no_body(house: httpx.Client) -> None:
    waiting = submit(house, model="to-delete", device="cuda")["id"]  # whose events do not end
    for path in (f"/v1/jobs/{waiting}/events", f"/v1/jobs/{waiting}", "/v1/models/digits/artifact", "/"):
        head = house.head(path, timeout=20)
        assert (head.status_code, head.content) == (200, b""), path
    assert house.head(f"/v1/jobs/{waiting}/events").headers["content-type"].startswith("text/event-stream")
    assert int(house.head("/").headers["content-length"]) == len(house.get("/").content)
    house.post(f"/v1/jobs/{waiting}/cancel")


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
