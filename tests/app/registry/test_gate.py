"""The gate before ``live`` over HTTP: an unfit model is listed with its reason and used by number, not by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from snf_client.errors import Conflict, problem_of
from snf_client.schemas.models import ModelDetail, ModelPage
from snf_models.artifacts.files import pack
from snf_models.registry.registry import Registry
from snf_worker.settings import Settings
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained, unfit_artifact
from tests.worker.support.helpers import until


@pytest.fixture
def settings(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with two unfit versions of a model, and the engine that starts in the least time."""
    made = service_settings(tmp_path, engine="torch")
    for _ in range(2):
        Registry(made.registry_dir).publish(unfit_artifact(tmp_path_factory), "hasty")
    return made


@pytest.fixture
def client(settings: Settings, no_shipped_models: None) -> Iterator[TestClient]:
    with client_of(settings) as made:
        yield made


def score(client: TestClient, ref: str) -> Any:
    return client.post(f"/v1/models/{ref}/score", files=files(DIGITS[0]))


def described(client: TestClient) -> Any:
    return client.get("/openapi.json").json()["paths"]


def listed(client: TestClient) -> Any:
    (entry,) = ModelPage.model_validate(client.get("/v1/models").json()).models
    return entry


def test_the_plain_name_is_refused_with_the_reason_and_the_number_works(client: TestClient) -> None:
    calls = described(client)
    for method, path in (
        ("POST", "/score"),
        ("GET", ""),
        ("GET", "/samples"),
        ("GET", "/reference"),
        ("GET", "/audit"),
        ("GET", "/card"),
        ("GET", "/artifact"),
        ("GET", "/calibrations"),
        ("GET", "/calibrations/0/comparison"),
    ):
        sent = files(DIGITS[0]) if method == "POST" else None
        answer = client.request(method, f"/v1/models/hasty{path}", files=sent)
        assert answer.status_code == 409, path
        problem = answer.json()
        assert problem["type"] == "no-live-version"
        assert [reason["code"] for reason in problem["unfit"]] == ["hardly-trained"]
        assert problem["unfit"][0]["detail"] in problem["detail"]
        assert "hasty:2" in problem["detail"]
        assert "snf models alias hasty live 2" in problem["detail"]
        template = f"/v1/models/{{ref}}{path.replace('/0/', '/{number}/')}"
        assert "409" in calls[template][method.lower()]["responses"]
    assert score(client, "hasty:1").json()["results"][0]["status"] == "ok"
    raised = problem_of(score(client, "hasty"))
    assert isinstance(raised, Conflict)
    assert (raised.type, raised.extensions["unfit"][0]["code"]) == ("no-live-version", "hardly-trained")
    assert client.get("/v1/models/hasty:1/samples", params={"n": 1}).status_code == 200


def test_a_job_by_the_plain_name_is_refused_before_it_is_queued(client: TestClient) -> None:
    for kind in ("score", "calibrate", "evaluate"):
        parameters = {"corruptions": True} if kind == "evaluate" else {}
        draft = {"type": kind, "model": "hasty", "parameters": parameters}
        answer = client.post("/v1/jobs", json=draft | {"dataset": "mnist-mini"})
        assert (answer.status_code, answer.json()["type"]) == (409, "no-live-version"), answer.text
        assert answer.json()["unfit"][0]["code"] == "hardly-trained"
        drafted = client.post("/v1/jobs/check-datasets", json=draft)
        assert (drafted.status_code, drafted.json()["type"]) == (409, "no-live-version"), drafted.text
    assert "409" in described(client)["/v1/jobs/check-datasets"]["post"]["responses"]


def test_list_detail_card_and_readiness_say_why(client: TestClient) -> None:
    entry = listed(client)
    assert (entry.state, entry.aliases, entry.versions) == ("unfit", {}, [1, 2])
    assert "hardly trained" in entry.reason
    assert [reason.code for reason in entry.unfit] == ["hardly-trained"]
    assert entry.architecture == "snf-glow-tiny"
    detail = ModelDetail.model_validate(client.get("/v1/models/hasty:1").json())
    assert detail.unfit == entry.unfit
    assert detail.manifest["fitness"]["checks"][0]["measure"] == "pixels"
    assert f"**This model is unfit and does not become live by itself: {entry.unfit[0].detail}.**" in (
        client.get("/v1/models/hasty:1/card").text
    )
    assert "<strong>This model is unfit" in client.get("/v1/models/hasty:1/card", params={"format": "html"}).text
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["models"], ready.json()["failed"]) == (200, {"hasty": "unfit"}, {})


def test_a_person_makes_it_live_and_takes_it_back(client: TestClient) -> None:
    moved = client.put("/v1/models/hasty/aliases/live", json={"version": 2}).json()
    assert (moved["aliases"], moved["previous"]) == ({"live": 2}, None)
    assert [reason["code"] for reason in moved["unfit"]] == ["hardly-trained"]
    assert score(client, "hasty").json()["version"] == 2
    entry = listed(client)
    assert entry.state == "ready"
    assert entry.unfit, "it says so while it serves"
    assert client.delete("/v1/models/hasty/aliases/live").status_code == 204
    until(lambda: bool(score(client, "hasty").status_code == 409))
    assert client.delete("/v1/models/hasty/aliases/live").json()["type"] == "no-live-version"


def test_a_fit_version_becomes_live_by_itself(
    client: TestClient, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert score(client, "hasty").status_code == 409
    Registry(settings.registry_dir).publish(barely_trained(tmp_path_factory), "hasty")
    assert score(client, "hasty").json()["version"] == 3
    entry = listed(client)
    assert (entry.aliases, entry.unfit) == ({"live": 3}, [])
    refused = client.delete("/v1/models/hasty/aliases/live")
    assert (refused.status_code, refused.json()["type"]) == (409, "alias-required")


@pytest.mark.timeout(300)
def test_an_uploaded_unfit_model_is_not_live_unless_that_is_asked(
    client: TestClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tar = b"".join(pack(unfit_artifact(tmp_path_factory)))
    headers = {"content-type": "application/x-tar"}
    plain = client.post("/v1/models?name=brought", content=tar, headers=headers)
    assert plain.status_code == 201, plain.text
    assert [reason["code"] for reason in plain.json()["unfit"]] == ["hardly-trained"]
    assert score(client, "brought").json()["type"] == "no-live-version"
    assert client.post("/v1/models?name=brought&promote=true", content=tar, headers=headers).status_code == 201
    assert score(client, "brought").json()["version"] == 2
