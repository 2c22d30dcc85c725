"""Calls beside others: pollers of jobs while Redis hangs, and a deletion beside a submission."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from snf_app.jobs.checks import JobPlan
from snf_app.jobs.service import JobService
from snf_app.main import create_app
from snf_client.schemas.jobs import JobRequest
from snf_worker.errors import BrokerDown
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.end_to_end.support.jobs import TRAINING
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.sample_files import pngs, zipped
from tests.support.local import LOCAL
from tests.support.service_settings import service_settings

POLLERS = 64
"""More than the threads of the framework."""

pytestmark = pytest.mark.usefixtures("no_shipped_models")


@pytest.mark.parametrize("path", ["/v1/jobs", f"/v1/jobs/{'0' * 26}", f"/v1/jobs/{'0' * 26}/log"])
def test_calls_without_redis_are_answered_while_pollers_wait_for_it(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def hang(*_arguments: object) -> None:
        asked.set()
        goes_on.wait(60)
        raise BrokerDown("it hangs")

    for call in ("list", "get"):
        monkeypatch.setattr(JobStore, call, hang)
    with (
        TestClient(create_app(service_settings(tmp_path)), LOCAL) as client,
        ThreadPoolExecutor(POLLERS + 1) as threads,
    ):
        pollers = [threads.submit(client.get, path) for _ in range(POLLERS)]
        try:
            assert asked.wait(20)
            # A plain function in the framework's threads; all pollers have been sent when it is.
            free = threads.submit(client.get, "/v1/datasets").result(timeout=20)
            assert free.status_code == 200
            assert not any(poller.done() for poller in pollers)
        finally:
            goes_on.set()
        assert {poller.result(timeout=60).status_code for poller in pollers} == {503}


def test_a_dataset_is_not_deleted_between_the_check_and_the_record_of_a_job(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, goes_on = threading.Event(), threading.Event()
    plan = JobService.plan

    def slow(self: JobService, request: JobRequest) -> JobPlan:
        made = plan(self, request)
        checked.set()
        assert goes_on.wait(60)
        return made

    monkeypatch.setattr(JobService, "plan", slow)
    with TestClient(create_app(settings), LOCAL) as client, ThreadPoolExecutor(2) as threads:
        upload(client, "lots", ("lots.zip", zipped(pngs(60)))).raise_for_status()
        submitted = threads.submit(client.post, "/v1/jobs", json=TRAINING | {"dataset": "lots", "model": "m"})
        assert checked.wait(60)
        deleted = threads.submit(client.delete, "/v1/datasets/lots")
        with pytest.raises(TimeoutError):
            deleted.result(timeout=0.5)
        goes_on.set()
        assert submitted.result(timeout=60).status_code == 202, submitted.result().text
        assert deleted.result(timeout=60).status_code == 409
        client.post(f"/v1/jobs/{submitted.result().json()['id']}/cancel").raise_for_status()
        assert client.delete("/v1/datasets/lots").status_code == 204
        assert client.post("/v1/jobs", json=TRAINING | {"dataset": "lots", "model": "m"}).status_code == 422
