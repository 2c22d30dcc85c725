"""Aliases and versions over HTTP: an alias moves and goes back without a restart, and what is used stays."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from snf_models.registry.registry import Registry
from snf_runtime.errors import USAGE
from tests.end_to_end.support.service import await_job, files, snf
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

MODEL = "versioned"
PATH = f"/v1/models/{MODEL}"


@pytest.fixture(scope="module")
def client(house: httpx.Client, house_home: Path, artifact: Path, other_artifact: Path) -> httpx.Client:
    """The house with a model of four versions, the first of which differs."""
    for version in (artifact, *[other_artifact] * 3):
        Registry(house_home / "registry").publish(version, MODEL)
    return house


def scored_by(client: httpx.Client, ref: str = MODEL) -> Any:
    answer = client.post(f"/v1/models/{ref}/score", files=files(DIGITS[0]))
    return answer.json()["version"] if answer.status_code == 200 else answer.json()["type"]


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"]


def test_an_alias_moves_and_goes_back_by_the_same_call(client: httpx.Client) -> None:
    assert scored_by(client) == 1
    moved = client.put(f"{PATH}/aliases/live", json={"version": 2})
    assert moved.status_code == 200, moved.text
    assert moved.json() == {"name": MODEL, "aliases": {"live": 2}, "previous": 1, "unfit": []}
    until(lambda: scored_by(client) == 2, 20)
    back = client.put(f"{PATH}/aliases/live", json={"version": moved.json()["previous"]})
    assert back.json()["previous"] == 2
    until(lambda: scored_by(client) == 1, 20)

    new = client.put(f"{PATH}/aliases/champion", json={"version": 2}).json()
    assert new == {"name": MODEL, "aliases": {"live": 1, "champion": 2}, "previous": None, "unfit": []}
    assert scored_by(client, f"{MODEL}@champion") == 2
    listed = client.get("/v1/models").json()["models"]
    assert next(one["aliases"] for one in listed if one["name"] == MODEL) == new["aliases"]
    gone = client.delete(f"{PATH}/aliases/champion")
    assert (gone.status_code, gone.content) == (204, b"")
    assert refused(client.delete(f"{PATH}/aliases/champion")) == (404, "model-not-found")
    until(lambda: scored_by(client, f"{MODEL}@champion") == "model-not-found", 20)


def test_a_deleted_model_answers_no_more(client: httpx.Client, house_home: Path) -> None:
    for _ in range(2):
        Registry(house_home / "registry").publish(house_home / "registry" / MODEL / "2", "short-lived")
    assert scored_by(client, "short-lived") == 1
    bulk = {"type": "score", "dataset": "mnist-mini", "model": "short-lived:2"}
    queued = client.post("/v1/jobs", json=bulk).raise_for_status().json()
    client.post(f"/v1/jobs/{queued['id']}/pause").raise_for_status()
    assert refused(client.delete("/v1/models/short-lived")) == (409, "model-in-use")
    client.post(f"/v1/jobs/{queued['id']}/cancel").raise_for_status()
    await_job(client, queued["id"], "cancelled")
    assert client.delete("/v1/models/short-lived").status_code == 204
    assert "short-lived" not in {one["name"] for one in client.get("/v1/models").json()["models"]}
    until(lambda: scored_by(client, "short-lived") == "model-not-found", 20)
    assert client.get("/readyz").status_code == 200


def test_live_stays_and_shipped_models_stay(client: httpx.Client) -> None:
    assert refused(client.delete(f"{PATH}/aliases/live")) == (409, "alias-required")
    assert refused(client.delete(f"{PATH}/versions/1")) == (409, "version-in-use")
    assert refused(client.delete("/v1/models/mnist-snf-glow/versions/1")) == (409, "model-read-only")
    assert refused(client.delete("/v1/models/mnist-snf-glow")) == (409, "model-read-only")
    assert refused(client.delete("/v1/models/nobody")) == (404, "model-not-found")
    assert refused(client.delete(f"{PATH}/versions/99")) == (404, "model-not-found")
    assert refused(client.delete("/v1/models/nobody/versions/1")) == (404, "model-not-found")


def test_a_deleted_version_answers_no_more(client: httpx.Client, house_home: Path) -> None:
    assert scored_by(client, f"{MODEL}:3") == 3
    deleted = client.delete(f"{PATH}/versions/3")
    assert (deleted.status_code, deleted.content) == (204, b""), deleted.text
    assert client.get(f"{PATH}:3").status_code == 404
    until(lambda: scored_by(client, f"{MODEL}:3") == "model-not-found", 20)
    assert scored_by(client) == 1
    assert not (house_home / "registry" / MODEL / "3").exists()
    assert refused(client.delete(f"{PATH}/versions/3")) == (404, "model-not-found")


def test_a_version_stays_while_a_job_uses_it(client: httpx.Client, house_home: Path) -> None:
    bulk = {"type": "score", "dataset": "mnist-mini", "model": f"{MODEL}:4"}
    queued = client.post("/v1/jobs", json=bulk).raise_for_status().json()
    client.post(f"/v1/jobs/{queued['id']}/pause").raise_for_status()
    answer = client.delete(f"{PATH}/versions/4")
    assert refused(answer) == (409, "version-in-use")
    assert answer.json()["job"] == queued["id"]
    for arguments in (("4",), ("--all",)):
        local = snf(house_home, "models", "delete", MODEL, *arguments)
        assert (local.returncode, queued["id"] in local.stderr) == (USAGE, True), local.stderr
    client.post(f"/v1/jobs/{queued['id']}/cancel").raise_for_status()
    await_job(client, queued["id"], "cancelled")
    assert client.delete(f"{PATH}/versions/4").status_code == 204


def test_a_job_whose_version_was_taken_away_says_so(client: httpx.Client, house_home: Path) -> None:
    Registry(house_home / "registry").publish(house_home / "registry" / MODEL / "2", MODEL)
    queued = client.post("/v1/jobs", json={"type": "score", "dataset": "mnist-mini", "model": f"{MODEL}:5"}).json()
    Registry(house_home / "registry").remove(MODEL, 5)
    failed = await_job(client, queued["id"], "failed")
    assert "has no version 5; it has: [1, 2]" in failed["error"]["detail"]
