"""Every call by every role, without a key, to a wrong host and from another site."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from snf_app.access.authentication import is_open
from snf_app.access.permissions import caller_of
from snf_app.http.request_log import SAFE, UNCHANGING
from snf_client.schemas.base import Role
from snf_worker.keys import ROLES, KeyFile
from tests.support.own_thread import answers
from tests.support.service_settings import client_of, service_settings

PARTS = {
    "ref": "nobody",
    "name": "nobody",
    "job_id": "0" * 26,
    "run_id": "0" * 26,
    "alias": "a",
    "version": 1,
    "number": 1,
    "step": 1,
}
PARTS |= {"source": "a"}
NO_KEY, WRONG_HOST, CROSS = "no key", "wrong host", "cross-site"
WITHOUT_KEYS, CROSS_WITH_KEY = "a service without keys", "cross-site with a key"
"""Callers beside those with the key of a role."""
Answered = Callable[[str, str, str], str]
"""How a caller is answered: a caller, a method and a path give an outcome."""
ELSEWHERE = {"host": "evil.example"}
CROSS_SITE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
PASSES = "yes"
TYPES = {
    "A valid key is needed": "unauthorized",
    "The key may not do this": "insufficient-role",
    "The host name is not allowed": "host-not-allowed",
    "Another origin asks for a change": "cross-origin",
}
"""Types of refusals by their titles, with which errors of the Open Inference Protocol begin."""


@contextmanager
def serving(home: Path) -> Iterator[TestClient]:
    """A service without a job store."""
    with client_of(service_settings(home), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, dict[str, str]]:
    """The headers of a key of each role; `keyed` knows them."""
    file = KeyFile(tmp_path_factory.getbasetemp() / "keyed" / "keys.json")
    return {role: {"authorization": f"Bearer {file.create(role, role)[1]}"} for role in ROLES}


@pytest.fixture(scope="module")
def keyed(keys: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(tmp_path_factory.getbasetemp() / "keyed") as client:
        yield client


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(tmp_path_factory.mktemp("open")) as client:
        yield client


def role_of(operation: dict[str, Any]) -> Role | None:
    """The role that an operation needs, or None."""
    role: Role | None
    [role] = operation.get("security", [{"bearer": [None]}])[0]["bearer"]
    return role


def operations(client: TestClient) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every operation."""
    paths = client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path, one) for path, calls in paths.items() for method, one in calls.items()]


def outcomes(client: TestClient, calls: list[tuple[str, str]], headers: dict[str, str]) -> list[str]:
    """How calls with a body that is not valid are refused before the body is looked at; `PASSES` where they are not."""
    requests = (
        client.build_request(method, path.format(**PARTS), content=b"?" if method not in SAFE else b"", headers=headers)
        for method, path in calls
    )
    return [outcome(path, answer) for (_, path), answer in zip(calls, answers(client, requests), strict=True)]


def outcome(path: str, answer: httpx.Response) -> str:
    """How a call is refused, or `PASSES`."""
    if answer.status_code not in (401, 403):
        assert answer.status_code != 429, (path, answer.text)
        return PASSES
    if path.startswith("/v2"):
        return f"{answer.status_code} {TYPES[answer.json()['error'].partition(':')[0]]}"
    assert answer.headers["content-type"] == "application/problem+json"
    return f"{answer.status_code} {answer.json()['type']}"


@pytest.fixture(scope="module")
def answered(keyed: TestClient, open_to_all: TestClient, keys: dict[Role, dict[str, str]]) -> Answered:
    """What a caller gets: each call is made once, with a key of a role, without one, or to an open service."""
    calls = [(method, path) for method, path, _ in operations(keyed)]
    callers = {
        NO_KEY: (keyed, {}),
        **{role: (keyed, keys[role]) for role in ROLES},
        WITHOUT_KEYS: (open_to_all, {}),
        WRONG_HOST: (open_to_all, ELSEWHERE),
        CROSS: (open_to_all, CROSS_SITE),
        CROSS_WITH_KEY: (keyed, keys["admin"] | CROSS_SITE),
    }
    found = {
        (caller, *call): one
        for caller, (client, headers) in callers.items()
        for call, one in zip(calls, outcomes(client, calls, headers), strict=True)
    }
    return lambda caller, method, path: found[caller, method, path]


def test_every_call_needs_exactly_its_role(keyed: TestClient, answered: Answered) -> None:
    calls = operations(keyed)
    assert len(calls) > 40
    for method, path, operation in calls:
        needed = role_of(operation)
        changes = method not in SAFE
        if needed is None:
            assert is_open(path), f"{method} {path} declares no role"
            assert answered(NO_KEY, method, path) == PASSES
            assert not changes
            continue
        assert answered(NO_KEY, method, path) == "401 unauthorized"
        for role in ROLES:
            expected = PASSES if ROLES.index(role) >= ROLES.index(needed) else "403 insufficient-role"
            assert answered(role, method, path) == expected, (method, path, role)
        assert answered(WITHOUT_KEYS, method, path) == PASSES
        assert answered(WRONG_HOST, method, path) == "403 host-not-allowed"
        cross_site = "403 cross-origin" if changes else PASSES
        assert answered(CROSS, method, path) == cross_site
        # Nor does a browser's key help a page of another origin.
        assert answered(CROSS_WITH_KEY, method, path) == cross_site
        assert {"401", "403", "429", "503"} <= set(operation["responses"])
        assert f"Needs the role `{needed}`." in operation["description"]


def test_reading_changes_nothing_and_only_scores_change_nothing_otherwise(keyed: TestClient) -> None:
    calls = {operation["operationId"]: (method, role_of(operation)) for method, _, operation in operations(keyed)}
    assert set(calls) >= UNCHANGING
    for name, (method, role) in calls.items():
        if method not in SAFE and name not in UNCHANGING:
            assert role in ("train", "admin"), name


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1", "/nothing", "/metrics/", "/v2/models", "//v1/models", "/docs/x"]
)
def test_what_is_no_call_needs_a_key_too(keyed: TestClient, path: str) -> None:
    assert keyed.get(path, follow_redirects=False).status_code == 401


def test_the_pages_are_open(keyed: TestClient) -> None:
    for path in (
        "/",
        "/docs",
        "/openapi.json",
        "/console/js/main.js",
        "/docs/files/swagger-ui.css",
        "/healthz",
        "/guide/README.md",
    ):
        assert keyed.get(path).status_code == 200, path
    assert keyed.get("/console/../v1/models").status_code == 401
    assert keyed.get("/console/%2e%2e/v1/models").status_code in (401, 404)


def test_going_live_needs_an_administrator(keyed: TestClient, keys: dict[Role, dict[str, str]]) -> None:
    train: dict[str, Any] = {"type": "train", "dataset": "d", "model": "m"}
    calibrate: dict[str, Any] = {"type": "calibrate", "dataset": "d", "model": "m"}
    off = {"parameters": {"activate": False}}
    for job in (train | {"promote": True}, calibrate, calibrate | {"parameters": {"activate": True}}):
        refused = keyed.post("/v1/jobs", json=job, headers=keys["train"])
        assert refused.json()["type"] == "insufficient-role", job
        assert refused.json()["needed"] == "admin"
        assert keyed.post("/v1/jobs", json=job, headers=keys["admin"]).status_code not in (401, 403)
    for job in (train, calibrate | off):
        assert keyed.post("/v1/jobs", json=job, headers=keys["train"]).status_code not in (401, 403)
    path = "/v1/models/mnist-snf-glow/calibrations"
    assert keyed.post(path, json={"dataset": "d"}, headers=keys["train"]).status_code == 403
    assert keyed.post(path, json={"dataset": "d", "activate": False}, headers=keys["train"]).status_code != 403


def test_a_refusal_names_the_role_in_words(keyed: TestClient, keys: dict[Role, dict[str, str]]) -> None:
    body = keyed.delete("/v1/models/nobody", headers=keys["score"]).json()
    assert body["detail"] == "the key 'score' has the role 'score'; this call needs 'admin'"
    assert (body["needed"], body["held"]) == ("admin", "score")
    unknown = keyed.delete("/v1/models/nobody?sead=1", headers=keys["score"])
    assert (unknown.status_code, unknown.json()["type"]) == (403, "insufficient-role")
    assert keyed.delete("/v1/models/nobody?sead=1", headers=keys["admin"]).status_code == 422


def test_a_caller_is_shown_what_it_may(
    keyed: TestClient, open_to_all: TestClient, keys: dict[Role, dict[str, str]]
) -> None:
    shown = keyed.get("/v1/me", headers=keys["train"]).json()
    assert (shown["name"], shown["role"], shown["may"]) == ("train", "train", ["read", "score", "train"])
    assert shown["key"] in keys["train"]["authorization"]
    assert open_to_all.get("/v1/me").json() == {"name": "anyone", "key": None, "role": "admin", "may": list(ROLES)}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.7", "address:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "address:2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "address:192.0.2.7"),
        ("", "address:"),
    ],
)
def test_one_machine_is_one_caller_whichever_of_its_addresses_it_uses(host: str, name: str) -> None:
    caller = caller_of({"type": "http", "client": (host, 50000)})
    assert (caller.name, caller.address) == (name, host)
