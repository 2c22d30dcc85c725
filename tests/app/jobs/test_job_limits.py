"""Unfinished jobs are limited over HTTP: for each caller, and altogether."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from snf_app.main import create_app
from snf_worker.settings import Settings
from tests.end_to_end.support.jobs import TRAINING
from tests.support.disks import MIB, Disk
from tests.support.local import LOCAL


@pytest.fixture
def client(settings: Settings, no_shipped_models: None) -> Iterator[TestClient]:
    """A service without a worker that takes two unfinished jobs of a caller."""
    with TestClient(create_app(settings.model_copy(update={"max_jobs_per_caller": 2})), LOCAL) as client:
        yield client


def test_a_caller_with_too_many_unfinished_jobs_is_told_to_wait(client: TestClient) -> None:
    request = TRAINING | {"model": "limited"}
    paused, queued = (client.post("/v1/jobs", json=request).json() for _ in range(2))
    assert "caller" not in queued
    assert client.post(f"/v1/jobs/{paused['id']}/pause").json()["status"] == "paused"
    refused = client.post("/v1/jobs", json=request)
    assert (refused.status_code, refused.json()["type"], refused.headers["retry-after"]) == (429, "queue-full", "60")
    assert refused.json()["detail"] == (
        "this caller has 2 unfinished jobs, and may have 2; wait until some have ended, or cancel some"
    )
    assert client.post(f"/v1/jobs/{queued['id']}/cancel").json()["status"] == "cancelled"
    retry = client.post(f"/v1/jobs/{queued['id']}/retry")
    assert retry.status_code == 202
    again = client.post(f"/v1/jobs/{queued['id']}/retry")
    assert (again.status_code, again.json()["id"]) == (202, retry.json()["id"]), "it is the same job"
    assert client.delete(f"/v1/jobs/{queued['id']}").json()["job"] == retry.json()["id"]


def test_a_retry_on_a_full_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled, other = (client.post("/v1/jobs", json=TRAINING | {"model": "full"}).json()["id"] for _ in range(2))
    for job in (cancelled, other):
        client.post(f"/v1/jobs/{job}/cancel")
    retry = client.post(f"/v1/jobs/{cancelled}/retry").json()["id"]
    Disk(monkeypatch, total=64 * MIB, free=0)
    again = client.post(f"/v1/jobs/{cancelled}/retry")
    assert (again.status_code, again.json()["id"]) == (202, retry), "a repeated call makes no new job"
    answers = [client.post(f"/v1/jobs/{job}/retry") for job in ("0" * 26, retry, other)]
    assert [answer.status_code for answer in answers] == [404, 409, 507]
