"""Training jobs over HTTP, through a real broker, worker and training process."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.support.jobs import SMALL, TRAINING, submit
from tests.end_to_end.support.service import await_job, score_one
from tests.support.paths import DIGITS


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


def test_a_queued_job_is_cancelled_at_once_and_listed(house: httpx.Client) -> None:
    # They stay in the queue: the worker has no such device.
    first, waiting = (submit(house, model=model, device="cuda") for model in ("first", "waiting"))
    answer = house.post(f"/v1/jobs/{waiting['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    house.post(f"/v1/jobs/{first['id']}/cancel")
    page = house.get("/v1/jobs", params={"limit": 1}).json()
    assert [job["id"] for job in page["jobs"]] == [waiting["id"]]
    following = house.get("/v1/jobs", params={"limit": 1, "after": page["next"]}).json()
    assert [job["id"] for job in following["jobs"]] == [first["id"]]
    cancelled = house.get("/v1/jobs", params={"status": "cancelled", "type": "train"}).json()["jobs"]
    assert waiting["id"] in {job["id"] for job in cancelled}
