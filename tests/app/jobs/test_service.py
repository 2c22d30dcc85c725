"""Jobs over HTTP with a job store: who submits how many, their results, and a store that fails."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from redis.exceptions import ResponseError

from snf_app.jobs import service
from snf_app.jobs.service import JobPlan, JobService, JobStoreMonitor
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import JobRequest
from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import REPORT_HTML, REPORT_JSON, Job, Queue, Status, new_job_id
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.end_to_end.support.jobs import TRAINING
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import pngs, zipped
from tests.support.disks import MIB, Disk
from tests.support.service_settings import client_of, service_settings
from tests.worker.support.helpers import take, until


@pytest.mark.parametrize("error", [BrokerDown("no answer"), ResponseError("BUSY Redis is busy running a script")])
def test_the_store_answers_again_after_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "PING_S", 0.01)
    errors: list[Exception] = []

    def ping() -> None:
        if errors:
            raise errors[0]

    store = SimpleNamespace(ping=ping, waiting=lambda _queue: 0)
    monitor = JobStoreMonitor(cast(JobStore, store))
    with caplog.at_level(logging.ERROR):
        monitor.start()
        try:
            until(lambda: monitor.answers)
            errors.append(error)
            until(lambda: not monitor.answers)
            errors.clear()
            until(lambda: monitor.answers)
        finally:
            monitor.stop()
    assert ("job-store-watch failed" in caplog.messages) == isinstance(error, ResponseError)


pytestmark = pytest.mark.usefixtures("no_shipped_models")

REQUEST = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-tiny"}
ONCE = {"Idempotency-Key": "once"}


def test_callers_do_not_share_their_keys(settings: Settings) -> None:
    keyed = settings.model_copy(update={"api_keys": ("a" * 32, "b" * 32)})
    with client_of(keyed) as client:

        def submit(key: str, model: str = "m") -> tuple[int, str]:
            headers = ONCE | {"X-API-Key": key * 32}
            answer = client.post("/v1/jobs", json=REQUEST | {"model": model}, headers=headers)
            return answer.status_code, answer.json().get("id", answer.json().get("type"))

        first, second = submit("a"), submit("b")
        assert first[0] == second[0] == 202
        assert first != second
        assert (submit("a"), submit("b")) == (first, second)
        # The same key with another request is refused to its own caller alone.
        assert submit("a", model="other") == (422, "idempotency-key-reused")


def test_callers_without_api_keys_are_one(settings: Settings) -> None:
    ids = set()
    for address in ("127.0.0.1", "::1"):
        with client_of(settings, client=(address, 50000)) as client:
            ids.add(client.post("/v1/jobs", json=REQUEST, headers=ONCE).json()["id"])
    assert len(ids) == 1


@pytest.fixture
def client(settings: Settings, no_shipped_models: None) -> Iterator[TestClient]:
    """A service without a worker that takes two unfinished jobs of a caller."""
    with client_of(settings.model_copy(update={"max_jobs_per_caller": 2})) as client:
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


POLLERS = 64
"""More than the threads of the framework."""


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
        client_of(service_settings(tmp_path)) as client,
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
    with client_of(settings) as client, ThreadPoolExecutor(2) as threads:
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


REF = {"model": "digits", "version": 2, "ref": "digits:2"}


def finished(settings: Settings, type: JobType, result: dict[str, Any], **files: str) -> str:
    """Store a job that has succeeded and its files; return the path of its result."""
    job = Job(
        id=new_job_id(),
        type=type,
        queue=Queue.SCORE,
        model="digits:2",
        dataset="mnist-mini",
        created_at=datetime.now(UTC),
    )
    store = JobStore(redis_client(settings), settings.key_prefix)
    store.create(job)
    store.finish(job.id, take(store, job, "worker", 30), Status.SUCCEEDED, {"result": result})
    folder = settings.jobs_dir / job.id
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return f"/v1/jobs/{job.id}/result"


def test_every_type_has_its_result(settings: Settings) -> None:
    trained = finished(settings, "train", REF)
    calibrated = finished(settings, "calibrate", REF | {"calibration": 3, "smallest_p": 0.01})
    evaluated = finished(settings, "evaluate", REF, **{REPORT_JSON: '{"sets": []}', REPORT_HTML: "<!DOCTYPE html>"})
    scored = finished(settings, "score", REF, **{"scores.parquet": "PAR1"})
    with client_of(settings) as client:
        answer = client.get(trained).json()
        assert (answer["ref"], answer["links"]["score"]) == ("digits:2", "/v1/models/digits:2/score")
        answer = client.get(calibrated).json()
        assert (answer["calibration"], answer["smallest_p"]) == (3, 0.01)
        assert answer["links"]["calibration"] == "/v1/models/digits:2/calibrations/3"

        assert client.get(evaluated).json() == {"sets": []}
        for page in (
            client.get(evaluated, headers={"accept": "text/html,application/xhtml+xml;q=0.9"}),
            client.get(evaluated, params={"format": "html"}),
        ):
            assert page.text == "<!DOCTYPE html>"
            assert page.headers["content-type"].startswith("text/html")
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert client.get(evaluated, params={"format": "pdf"}).status_code == 422

        at_location = client.get(finished(settings, "score", {"images": 5, "output": "s3://lots/scores"}))
        assert (at_location.status_code, at_location.json()["output"]) == (409, "s3://lots/scores")
        assert "has written its scores to s3://lots/scores" in at_location.json()["detail"]

        table = client.get(scored)
        assert (table.content, table.headers["content-type"]) == (b"PAR1", "application/vnd.apache.parquet")
