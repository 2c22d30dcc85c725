"""HEAD is answered where GET is, with its status and headers and no body."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from snf_app.main import create_app
from tests.app.conftest import MODEL
from tests.support.local import LOCAL
from tests.support.service_settings import service_settings
from tests.worker.support.helpers import until

VARYING = {"date", "x-request-id"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with TestClient(create_app(service_settings(tmp_path_factory.mktemp("home"))), LOCAL) as service:
        until(lambda: service.get("/readyz").status_code == 200)  # a model's details grow once it is loaded
        yield service


def headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in VARYING}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/console/js/main.js", "/docs/files/swagger-ui.css",
        "/guide/scores.md", "/guide/images/replicas.svg", "/guide/nowhere.md", "/healthz", "/readyz",
        "/v1/models", f"/v1/models/{MODEL}", f"/v1/models/{MODEL}/card", f"/v1/models/{MODEL}/artifact",
        f"/v1/models/{MODEL}/samples?n=1&seed=1&format=png", "/v1/presets", "/v1/datasets/mnist-mini",
        "/v1/models/nobody", "/v1/jobs", "/nowhere", "/console/nowhere.js", "/v1/models?limit=1",
    ],
)  # fmt: skip
def test_head_has_the_status_and_headers_of_get_without_the_body(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert headers(head) == headers(got)
    assert got.content


def test_what_is_unchanged_is_not_sent_again(client: TestClient) -> None:
    tag = client.head("/console/js/main.js").headers["etag"]
    assert client.head("/console/js/main.js", headers={"if-none-match": tag}).status_code == 304
    part = client.head("/console/js/main.js", headers={"range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"], part.content) == (206, "10", b"")


def test_head_is_refused_where_get_is(client: TestClient) -> None:
    refused = client.head(f"/v1/models/{MODEL}/score")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")
