"""What `/metrics` tells: counts that are right, labels that are bounded, and nobody who is waited for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from snf_app import pages
from snf_app.jobs.service import JobStoreMonitor
from snf_app.metrics.registry import ServiceMetrics
from snf_worker.jobs.record import Queue
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.worker.support.helpers import until

MODEL = {"model": "mnist-snf-glow", "version": "1"}
SCORE = "/v1/models/mnist-snf-glow/score"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = service_settings(tmp_path_factory.mktemp("home"))
    with client_of(settings, raise_server_exceptions=False) as found:
        yield found


Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(client: TestClient) -> Values:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Values = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Values, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def test_requests_are_counted_by_template(client: TestClient) -> None:
    before = values(client)
    for _ in range(3):
        client.get("/v1/models/dogs")
    client.get("/v1/models/cats")
    client.get("/nowhere/4711")
    client.post("/nowhere/4712")
    for file in ("js/main.js", "js/none.js"):
        client.get(f"{pages.CONSOLE_PATH}/{file}")
    client.request("BREW", "/healthz")
    after = values(client)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    template = "/v1/models/{ref}"
    assert more("snf_http_requests_total", route=template, method="GET", status="404") == 4
    assert more("snf_http_request_seconds_count", route=template, method="GET") == 4
    assert more("snf_http_requests_total", route="unmatched", method="GET", status="404") == 1
    assert more("snf_http_requests_total", route="unmatched", method="POST", status="404") == 1
    for status in ("200", "404"):
        assert more("snf_http_requests_total", route=f"{pages.CONSOLE_PATH}/...", method="GET", status=status) == 1
    assert more("snf_http_requests_total", route="/healthz", method="other", status="405") == 1
    assert more("snf_http_requests_total", route="/metrics", method="GET", status="200") == 1
    routes = {dict(labels)["route"] for name, labels in after if name == "snf_http_requests_total"}
    assert not [route for route in routes if "dogs" in route or "47" in route]


def test_images_are_counted_by_model_and_error(client: TestClient) -> None:
    before = values(client)
    good = client.post(SCORE, files=files(*DIGITS[:5]), params={"alpha": 0.99})
    flagged = sum(one["anomaly"]["is_anomaly"] for one in good.json()["results"])
    bad = ("images", ("notes.txt", b"no image", "text/plain"))
    assert client.post(SCORE, files=[*files(DIGITS[0]), bad]).status_code == 200
    assert client.post(SCORE, files=[bad, bad]).status_code == 422
    assert client.post(SCORE, content=b"no image", headers={"content-type": "image/png"}).status_code == 422
    assert client.post("/v1/models/dogs/score", files=files(DIGITS[0])).status_code == 404
    after = values(client)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("snf_images_scored_total", **MODEL) == 6
    assert (more("snf_batch_images_count"), more("snf_batch_images_sum")) == (2, 6)
    assert more("snf_queue_wait_seconds_count") == 2
    assert flagged >= 4
    assert more("snf_images_flagged_total", **MODEL) in (flagged, flagged + 1)
    assert more("snf_image_errors_total", type="undecodable-image") == 4
    assert {dict(labels)["model"] for name, labels in after if name == "snf_images_scored_total"} == {"mnist-snf-glow"}


def test_a_failure_of_the_service_is_a_500(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    before = values(client)
    monkeypatch.setattr("snf_app.registry.endpoints.detail", lambda *_: 1 / 0)
    assert client.get("/v1/models/mnist-snf-glow").status_code == 500
    labels = {"route": "/v1/models/{ref}", "method": "GET", "status": "500"}
    name = "snf_http_requests_total"
    assert value(values(client), name, **labels) - value(before, name, **labels) == 1


def test_the_state_is_told(client: TestClient) -> None:
    until(lambda: client.get("/readyz").status_code == 200)
    found = until(lambda: (now := values(client)) and value(now, "snf_event_loop_lag_seconds_count") and now)
    assert value(found, "snf_queue_images") == 0
    assert value(found, "snf_queue_capacity_images") == 4096
    assert value(found, "snf_models", state="ready") == 1
    assert found["snf_models", frozenset({("state", "failed")})] == 0
    assert found["snf_job_store_up", frozenset()] == 0
    assert not [name for name, _ in found if name == "snf_jobs_waiting"]


def test_services_beside_each_other_count_alone(client: TestClient, tmp_path: Path) -> None:
    client.post(SCORE, files=files(DIGITS[0])).raise_for_status()
    with client_of(service_settings(tmp_path)) as other:
        assert value(values(other), "snf_images_scored_total", **MODEL) == 0
    assert value(values(client), "snf_images_scored_total", **MODEL) > 0


def test_a_model_that_is_gone_is_in_no_label() -> None:
    metrics = ServiceMetrics()
    for name, images in (("old", 5), ("new", 7)):
        metrics.scored.labels(name, "1").inc(images)
    text = metrics.render(lambda: {("new", 1)}).decode()
    assert 'snf_images_scored_total{model="new",version="1"} 7.0' in text
    assert 'model="old"' not in text


class HangingStore:
    """A job store that answers until it hangs."""

    def __init__(self) -> None:
        self.hang = threading.Event()

    def ping(self) -> None:
        if self.hang.is_set():
            time.sleep(30)

    def waiting(self, queue: Queue) -> int:
        return {Queue.SCORE: 3}.get(queue, 0)


def test_waiting_jobs_are_known_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snf_app.jobs.service.PING_S", 0.01)
    monkeypatch.setattr("snf_app.jobs.service.STALE_S", 0.2)
    store = HangingStore()
    watch = JobStoreMonitor(store)  # type: ignore[arg-type]
    assert watch.waiting == {}
    watch.start()
    assert until(lambda: watch.waiting) == {Queue.TRAIN_CPU: 0, Queue.TRAIN_GPU: 0, Queue.SCORE: 3}
    store.hang.set()
    until(lambda: not watch.answers)
    assert watch.waiting == {}
    watch.stop(wait_s=0)
