"""Every error of the service is a problem of RFC 9457, and OpenAPI says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from snf_app.http.router import CheckedRoute
from snf_app.main import ROUTERS, Service, create_app
from tests.support.service_settings import LOCAL, client_of, service_settings

pytestmark = pytest.mark.usefixtures("no_shipped_models")

MEMBERS = {"type", "title", "status", "detail", "instance"}


def make_app(home: Path, **changes: Any) -> Service:
    return create_app(service_settings(home, max_upload_bytes=4096, **changes))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = make_app(tmp_path_factory.mktemp("home"))

    @app.get("/broken", include_in_schema=False)
    def broken() -> None:
        raise RuntimeError("the secret of the house")

    with TestClient(app, LOCAL, raise_server_exceptions=False) as made:
        yield made


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert set(body) >= MEMBERS
    assert (body["status"], body["type"]) == (status, slug)
    assert body["instance"] == response.request.url.path
    return body


def test_wrong_method_names_the_right_one(client: TestClient) -> None:
    for path, allowed in {
        "/v1/models": "GET, HEAD, POST",
        "/v1/jobs/00000000000000000000000000/cancel": "POST",
        "/v1/models/m/aliases/live": "DELETE, PUT",
        "/healthz": "GET, HEAD",
        "/": "GET, HEAD",
        "/console/js/main.js": "GET, HEAD",
        "/openapi.json": "GET, HEAD",
    }.items():
        response = client.patch(path)
        problem(response, 405, "method-not-allowed")
        assert response.headers["allow"] == allowed, path


def test_validation_points_at_every_wrong_part(client: TestClient) -> None:
    body = problem(client.post("/v1/models/m/score?alpha=7&draws=0"), 422, "invalid-request")
    assert {one["pointer"] for one in body["errors"]} == {"/query/alpha", "/query/draws"}
    assert all(one["detail"] for one in body["errors"])
    # Names come before values.
    body = problem(client.post("/v1/models/m/score?alpha=7&colour=red&size=3"), 422, "invalid-request")
    assert {one["pointer"] for one in body["errors"]} == {"/query/colour", "/query/size"}


@pytest.mark.parametrize("content", [b" " * 5000, [b" " * 500] * 10], ids=["declared", "in pieces"])
def test_too_large_body(client: TestClient, content: bytes | list[bytes]) -> None:
    pieces = content if isinstance(content, bytes) else iter(content)
    response = client.post("/v1/jobs", content=pieces, headers={"content-type": "application/json"})
    assert "4096 bytes" in problem(response, 413, "content-too-large")["detail"]


def test_json_bodies_are_small(tmp_path: Path) -> None:
    with client_of(service_settings(tmp_path)) as client:
        body = {"type": "train", "dataset": "d", "model": "m", "parameters": {"x": "y" * 70_000}}
        assert "65536 bytes" in problem(client.post("/v1/jobs", json=body), 413, "content-too-large")["detail"]


def test_only_json_is_json(client: TestClient) -> None:
    for headers in ({}, {"content-type": "text/plain"}):
        problem(client.post("/v1/jobs", content=b"{}", headers=headers), 415, "unsupported-media-type")


def test_no_route_has_its_body_read_before_its_role_is_checked() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, CheckedRoute)]
    assert len(routes) > 50
    assert [route.path for route in routes if route.body_field is not None and route.role is None] == []


def test_unexpected_errors_tell_nothing_of_the_inside(client: TestClient) -> None:
    response = client.get("/broken")
    problem(response, 500, "internal-error")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text


def test_broker_down_says_when_to_come_back_and_nothing_of_the_inside(client: TestClient) -> None:
    response = client.get("/v1/jobs")
    assert "127.0.0.1" not in problem(response, 503, "jobs-unavailable")["detail"]
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 60_000, b"1" * 5000, b'{"a": "\\ud800"}', b"\xff", b'{"type": NaN}', b"[]", b"null", b'"x"'],
    ids=lambda body: repr(body[:10]),
)
def test_a_body_that_is_no_job_is_the_requests_fault(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/jobs", content=body[:4000], headers={"content-type": "application/json"})
    no_json = body in (b"{", b"[" * 60_000, b'{"a": "\\ud800"}', b"\xff")
    expected = (400, "malformed-json") if no_json else (422, "invalid-request")
    assert problem(response, *expected)["errors"][0]["pointer"].startswith("/body")


def test_errors_of_fields_are_in_plain_words(client: TestClient) -> None:
    job = {"type": "train", "dataset": "Not A Name", "model": "m:x", "colour": "red"}
    errors = {one["pointer"]: one["detail"] for one in client.post("/v1/jobs", json=job).json()["errors"]}
    assert errors == {
        "/body/dataset": "expected 1 to 64 of a-z 0-9 . _ - with a letter or digit first, got 'Not A Name'",
        "/body/model": "expected the name of a model, or name:version, or name@alias, got 'm:x'",
        "/body/colour": "there is no such parameter; see /docs for all parameters",
    }
    missing = client.post("/v1/jobs", json={"type": "train", "model": "m"}).json()["errors"]
    assert missing == [{"pointer": "/body/dataset", "detail": "a value is required, and none was given"}]
    [after] = client.get("/v1/jobs?after=x").json()["errors"]
    assert after["detail"] == "expected the id of a job, 26 of 0-9 a-z, got 'x'"
    [limit] = client.get("/v1/jobs?limit=many").json()["errors"]
    assert limit["detail"] == "expected a valid integer, got 'many'"
    [limit] = client.get("/v1/jobs?limit=1000").json()["errors"]
    assert limit["detail"] == "expected a value less than or equal to 200, got '1000'"


def test_every_detail_names_the_wrong_part(client: TestClient) -> None:
    """Wrong parameters of jobs had their pointer in ``errors`` only."""
    for wrong in ({"batch_size": "5"}, {"batch_size": 0}):
        job = {"type": "recommend", "dataset": "mnist-mini", "parameters": {"minutes": "5"}}
        for request in (job, {"type": "train", "dataset": "mnist-mini", "model": "m", "parameters": wrong}):
            body = problem(client.post("/v1/jobs", json=request), 422, "invalid-request")
            assert body["detail"].startswith(body["errors"][0]["pointer"] + ": expected"), body
