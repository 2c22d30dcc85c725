"""Pausing, resuming, trying again and estimating jobs, through a real broker, worker and training process."""

from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.support.jobs import ENDLESS, FEW_IMAGES, SMALL, submit, written
from tests.end_to_end.support.processes import halted_training, told_to_stop
from tests.end_to_end.support.service import await_job
from tests.worker.support.helpers import until

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
    assert house.post(f"/v1/jobs/{waiting['id']}/cancel").json()["status"] == "cancelled"
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
