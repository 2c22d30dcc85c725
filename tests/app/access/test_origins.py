"""Which host names are answered, and whose pages may change something."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from snf_app.access.authentication import KeyRing
from snf_app.access.origins import OriginCheck
from snf_app.main import create_app
from snf_worker.settings import Settings
from tests.support.service_settings import service_settings

CONSOLE = "https://console.example"


async def answer(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("done", headers={"X-Seed": "7"})


def service(settings: Settings, *, keys: bool) -> Starlette:
    app = Starlette(routes=[Route("/", answer, methods=["GET", "HEAD", "POST", "DELETE"])])
    app.add_middleware(OriginCheck, settings=settings, keys=cast(KeyRing, SimpleNamespace(needed=keys)))
    return app


def ask(method: str = "GET", *, keys: bool = False, settings: Any = None, **headers: str) -> httpx.Response:
    """One request with these headers to a service with these settings."""
    checked = service(Settings(**(settings or {})), keys=keys)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response: httpx.Response = TestClient(checked, "http://localhost:8000").request(method, "/", headers=named)
    return response


def slug(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["type"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.:80", "127.0.0.1", "127.8.9.10:8000", "[::1]", "[::1]:8000"],
)
def test_loopback_names_are_answered(host: str) -> None:
    assert ask(host=host).status_code == 200
    assert ask("POST", host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.4:8000", "0.0.0.0", "[::]", "api"],
)
def test_without_keys_no_other_host_is(host: str) -> None:
    response = ask(host=host)
    assert slug(response) == (403, "host-not-allowed")
    assert "SNF_ALLOWED_HOSTS" in response.json()["detail"]
    assert ask(host=host, keys=True).status_code == 200, "a page has no key"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@localhost", "localhost:port", "localhost, evil.example"])
def test_a_host_must_be_one(host: str) -> None:
    assert slug(ask(host=host, keys=True)) == (400, "invalid-host")


def test_two_hosts_are_none() -> None:
    request = TestClient(service(Settings(), keys=True), "http://localhost")
    response = request.get("/", headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert slug(response) == (400, "invalid-host")


def test_hosts_can_be_allowed() -> None:
    settings = {"allowed_hosts": ("scores.example",)}
    for keys in (False, True):
        assert ask(host="scores.example:8443", keys=keys, settings=settings).status_code == 200
        assert ask(host="localhost", keys=keys, settings=settings).status_code == 200
        assert slug(ask(host="other.example", keys=keys, settings=settings)) == (403, "host-not-allowed")
    assert ask(host="other.example", settings={"allowed_hosts": ("*",)}).status_code == 200
    assert ask(host="192.0.2.7:8000", settings={"host": "192.0.2.7", "trusted_bind": True}).status_code == 200
    assert slug(ask(host="192.0.2.7", settings={"host": "0.0.0.0", "trusted_bind": True}))[0] == 403


CROSS: list[dict[str, Any]] = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:9000"},
    {"origin": "http://127.0.0.1:8000"},
    {"origin": "file://"},
    {"origin": "http://localhost:8000", "sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"origin": "http://localhost:9000", "sec_fetch_site": "same-site"},
]
OWN: list[dict[str, Any]] = [
    {},
    {"origin": "http://localhost:8000"},
    {"origin": "http://localhost:8000", "sec_fetch_site": "same-origin"},
    {"sec_fetch_site": "none"},
    {"sec_fetch_site": "same-origin"},
    # Behind a proxy that ends TLS.
    {"host": "localhost", "origin": "https://localhost"},
    {"host": "localhost:443", "origin": "https://localhost"},
]


@pytest.mark.parametrize("headers", CROSS, ids=str)
@pytest.mark.parametrize("keys", [False, True])
def test_pages_of_other_origins_change_nothing(headers: dict[str, Any], keys: bool) -> None:
    for method in ("POST", "DELETE"):
        response = ask(method, keys=keys, **{"host": "localhost:8000", **headers})
        assert slug(response) == (403, "cross-origin")
        assert "SNF_CORS_ORIGINS" in response.json()["detail"]
    reading = ask(keys=keys, **{"host": "localhost:8000", **headers})
    assert reading.status_code == 200
    assert "access-control-allow-origin" not in reading.headers


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_own_pages_and_programs_change_what_they_like(headers: dict[str, Any]) -> None:
    assert ask("POST", **{"host": "localhost:8000", **headers}).status_code == 200


def test_origins_can_be_allowed() -> None:
    settings = {"cors_origins": (CONSOLE,)}
    crossing: dict[str, Any] = {"origin": CONSOLE, "sec_fetch_site": "cross-site"}
    changing = ask("POST", settings=settings, **crossing)
    assert changing.status_code == 200
    assert changing.headers["access-control-allow-origin"] == CONSOLE
    assert {"X-Seed", "Location", "Retry-After"} <= set(changing.headers["access-control-expose-headers"].split(", "))
    preflight: dict[str, Any] = {
        "access_control_request_method": "DELETE",
        "access_control_request_headers": "x-api-key",
    }
    allowed = ask("OPTIONS", settings=settings, **crossing, **preflight)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == CONSOLE
    assert "DELETE" in allowed.headers["access-control-allow-methods"]
    assert "x-api-key" in allowed.headers["access-control-allow-headers"]
    refused = ask("OPTIONS", settings=settings, origin="https://evil.example", **preflight)
    assert slug(refused) == (403, "cross-origin")
    assert slug(ask("POST", settings=settings, origin="https://evil.example")) == (403, "cross-origin")


def test_all_paths_of_the_service_are_behind_it(tmp_path: Path) -> None:
    settings = service_settings(tmp_path)
    client = TestClient(create_app(settings), "http://rebound.example")
    for path in (
        "/",
        "/console/index.html",
        "/docs",
        "/docs/files/swagger-ui.css",
        "/openapi.json",
        "/healthz",
        "/v1/x",
    ):
        assert slug(client.get(path)) == (403, "host-not-allowed"), path
    crossing = TestClient(create_app(settings), "http://localhost").post("/v1/jobs", headers={"origin": "null"})
    assert slug(crossing) == (403, "cross-origin")
