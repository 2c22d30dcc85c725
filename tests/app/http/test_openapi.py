"""The OpenAPI document says what the service does."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from snf_app.main import Service
from tests.app.conftest import MODEL
from tests.support.paths import ROOT
from tests.support.service_settings import client_of, service_settings
from tests.support.stored_json import check_stored

TEXTS = {"description", "example", "examples", "summary", "title"}
"""Members of a document that are for readers alone."""
PROBLEM = {"schema": {"$ref": "ProblemDetails"}}


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {operation["operationId"]: operation for calls in document["paths"].values() for operation in calls.values()}


def test_keys_are_optional_exactly_where_the_service_has_none(client: TestClient, tmp_path: Path) -> None:
    keyed = client_of(service_settings(tmp_path, api_keys=("a" * 32,)))
    for service, optional in ((client, True), (keyed, False)):
        found = {
            name: one["security"]
            for name, one in operations(service.get("/openapi.json").json()).items()
            if "security" in one
        }
        assert len(found) > 40
        assert {name: {} in security for name, security in found.items()} == dict.fromkeys(found, optional)
        assert all({"bearer": ["read"]} in found[name] for name in ("list_models", "get_job"))


def test_the_document_is_made_once_and_sent_to_those_that_lack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = Service.openapi
    monkeypatch.setattr(Service, "openapi", lambda service: made.append(1) or make(service))
    client = client_of(service_settings(tmp_path))
    for path in ("/openapi.json", "/docs"):
        first, again = client.get(path), client.get(path)
        assert (first.status_code, first.content) == (200, again.content)
        unchanged = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    assert made == [1]


def test_the_calibration_in_use_can_be_read(client: TestClient) -> None:
    active = client.get(f"/v1/models/{MODEL}/calibrations/active")
    assert active.json() == client.get(f"/v1/models/{MODEL}/calibrations/0").json()
    assert active.json()["active"] is True
    refused = client.options(f"/v1/models/{MODEL}/calibrations/active")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, PUT")


def test_the_page_of_calls_runs_no_script_but_its_own(client: TestClient) -> None:
    page = client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert re.search(r"script-src 'self' 'sha256-[\w+/=]{44}';", policy)
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs/files/swagger-ui-bundle.js").headers["x-content-type-options"] == "nosniff"


def test_the_documentation_is_served_with_all_that_its_pages_refer_to(client: TestClient) -> None:
    pages = {path.name: client.get(f"/guide/{path.name}") for path in sorted((ROOT / "docs").glob("*.md"))}
    assert len(pages) > 20
    for page in pages.values():
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        for address in re.findall(r'(?:href|src)="([^":]*)"', page.text):
            name, _, heading = address.partition("#")
            target = page if not name else pages.get(name) or client.get(urljoin("/guide/", name))
            assert target.status_code == 200, address
            assert not heading or f'id="{heading}"' in target.text, address
    for path in ("/guide/nothing.md", "/guide/../pages.py", "/guide/%2e%2e/pages.py", "/guide/..%2fREADME.md"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("version", [True, "1"])
def test_a_version_is_a_number(client: TestClient, version: object) -> None:
    refused = client.put(f"/v1/models/{MODEL}/aliases/best", json={"version": version})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/body/version")


def test_a_literal_path_allows_its_own_methods_alone(client: TestClient) -> None:
    assert client.options("/v1/jobs/estimate").headers["allow"] == "POST"
    assert client.options("/v1/jobs/06f8m2q1x3z4c5v6b7n8m9k0j1").headers["allow"] == "DELETE, GET, HEAD"


def test_calls_fields_and_statuses_are_those_that_are_stored(
    client: TestClient, request: pytest.FixtureRequest
) -> None:
    document = client.get("/openapi.json").json()
    calls = {
        f"{path} {method.upper()}": call(operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    schemas = {
        name: plain(schema | {"properties": {}}) | {"properties": plain_values(schema.get("properties", {}))}
        for name, schema in document["components"]["schemas"].items()
    }
    check_stored(Path(__file__).with_name("openapi.json"), {"calls": calls, "schemas": schemas}, request.config)


def call(operation: dict[str, Any]) -> dict[str, Any]:
    """Return an operation without texts, and with the statuses of problems in one list."""
    answers = {status: plain(response) for status, response in operation["responses"].items()}
    problems = [
        status for status, answer in answers.items() if answer == {"content": {"application/problem+json": PROBLEM}}
    ]
    return {
        "id": operation["operationId"],
        "role": sorted({role for one in operation.get("security", ()) for role in one.get("bearer", ())}),
        "parameters": {
            f"{one['in']} {one['name']}": plain(one["schema"]) | ({"required": True} if one["required"] else {})
            for one in operation.get("parameters", ())
        },
        "body": plain(operation.get("requestBody")),
        "answers": {status: answer for status, answer in answers.items() if status not in problems},
        "problems": " ".join(problems),
    }


def plain(node: Any) -> Any:
    """Return a part of the document without its texts, with short references."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, dict):
        return node.removeprefix("#/components/schemas/") if isinstance(node, str) else node
    named = {"properties", "headers", "content"}
    return {
        key: plain_values(value) if key in named else plain(value) for key, value in node.items() if key not in TEXTS
    }


def plain_values(named: dict[str, Any]) -> dict[str, Any]:
    """Return named parts, whose names may be those of texts."""
    return {name: plain(value) for name, value in named.items()}
