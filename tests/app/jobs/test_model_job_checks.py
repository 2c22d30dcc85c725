"""Requests for jobs on a model that cannot succeed: each is refused, and the error points at what is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from snf_app.main import create_app
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import DIGITS, npz, pngs, zipped
from tests.support.local import LOCAL
from tests.support.service_settings import service_settings

MODEL = "mnist-snf-glow"
CALIBRATIONS = f"/v1/models/{MODEL}/calibrations"
SCORING: dict[str, Any] = {"type": "score", "model": MODEL, "dataset": "mnist-mini"}
EVALUATION: dict[str, Any] = {
    "type": "evaluate", "model": MODEL, "dataset": "mnist-mini", "parameters": {"corruptions": True, "images": 40}
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with datasets, whose job store does not answer: it would be asked for no request here."""
    with TestClient(create_app(service_settings(tmp_path_factory.mktemp("home"))), LOCAL) as made:
        for name, content in (
            ("own", ("own.zip", zipped(pngs(60, 6)))),
            ("few", ("few.zip", zipped(pngs(12)))),
            ("small", ("small.npz", npz(images=DIGITS[:40, 0, 2:26, 2:26].copy()))),
        ):
            upload(made, name, content).raise_for_status()
        yield made


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"preset": "snf-glow-tiny"}, "/body/preset"),
        ({"parameters": {"max_steps": 5}}, "/body/parameters/max_steps"),
        ({"model": "nobody"}, "/body/model"),
        ({"model": f"{MODEL}:9"}, "/body/model"),
        ({"dataset": "nothing"}, "/body/dataset"),
        ({"parameters": {"calibration": 99}}, "/body/parameters/calibration"),
    ],
)
def test_a_scoring(client: TestClient, changes: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/jobs", json=SCORING | changes)
    assert answer.status_code == 422
    assert pointer in [one["pointer"] for one in answer.json()["errors"]]


def test_an_alpha_that_the_calibration_cannot_give(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=SCORING | {"parameters": {"alpha": 1e-9}})
    assert (answer.status_code, answer.json()["type"]) == (422, "alpha-unattainable")
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/body/parameters/alpha"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"preset": "snf-glow-tiny"}, "/body/preset"),
        ({"model": "nobody"}, "/body/model"),
        ({"dataset": "nothing"}, "/body/dataset"),
        ({"parameters": {}}, "/body/parameters"),
        ({"parameters": {"against": ["nothing"]}}, "/body/parameters/against/0"),
        ({"parameters": {"against": ["mnist-mini"]}}, "/body/parameters/against/0"),
        ({"parameters": {"corruptions": True, "images": 1}}, "/body/parameters/images"),
        ({"parameters": {"corruptions": True, "max_steps": 1}}, "/body/parameters/max_steps"),
    ],
)
def test_an_evaluation(client: TestClient, changes: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/jobs", json=EVALUATION | changes)
    assert answer.status_code == 422
    assert pointer in [one["pointer"] for one in answer.json()["errors"]]


@pytest.mark.parametrize(
    ("path", "body", "status", "slug", "says"),
    [
        (CALIBRATIONS, {"dataset": "nothing"}, 422, "invalid-request", "there is no dataset 'nothing'"),
        (CALIBRATIONS, {"dataset": "few"}, 422, "invalid-request", "few has 12 images to calibrate on, at least 20"),
        (
            CALIBRATIONS,
            {"dataset": "small"},
            422,
            "invalid-request",
            "(width x height), fit exact takes 28x28 alone",
        ),
        (CALIBRATIONS, {"dataset": "own", "alpha": 0.1}, 422, "invalid-request", "/body/alpha"),
        ("/v1/models/nobody/calibrations", {"dataset": "own"}, 404, "model-not-found", "nobody"),
        (f"/v1/models/{MODEL}:9/calibrations", {"dataset": "own"}, 404, "model-not-found", "version 9"),
    ],
)
def test_a_calibration(client: TestClient, path: str, body: dict[str, Any], status: int, slug: str, says: str) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, slug), answer.text
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    "changes", [{"promote": True}, {"parameters": {"activate": "perhaps"}}, {"parameters": {"alpha": 0.1}}]
)
def test_a_calibration_as_any_job(client: TestClient, changes: dict[str, Any]) -> None:
    body = {"type": "calibrate", "dataset": "own", "model": MODEL}
    assert client.post("/v1/jobs", json=body | changes).status_code == 422


def test_a_calibration_that_does_not_exist(client: TestClient) -> None:
    for answer in (client.get(f"{CALIBRATIONS}/99"), client.put(f"{CALIBRATIONS}/active", json={"calibration": 99})):
        assert (answer.status_code, answer.json()["type"]) == (404, "calibration-not-found")


LIMIT: dict[str, Any] = {"type": "limit", "model": MODEL, "dataset": "mnist-mini"}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"preset": "snf-glow-tiny"}, "/body/preset"),
        ({"model": "nobody"}, "/body/model"),
        ({"dataset": "nothing"}, "/body/dataset"),
        ({"dataset": "small"}, "/body/dataset"),
        ({"parameters": {"shapes": ["crater"]}}, "/body/parameters/shapes/0"),
        ({"parameters": {"contrasts": [0]}}, "/body/parameters/contrasts/0"),
        ({"parameters": {"images": 0}}, "/body/parameters/images"),
        ({"parameters": {"calibration": 99}}, "/body/parameters/calibration"),
    ],
)
def test_a_limit(client: TestClient, changes: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/jobs", json=LIMIT | changes)
    assert answer.status_code == 422
    assert pointer in [one["pointer"] for one in answer.json()["errors"]]


def test_a_limit_at_an_alpha_that_the_calibration_cannot_give(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=LIMIT | {"parameters": {"alpha": 1e-9}})
    assert (answer.status_code, answer.json()["type"]) == (422, "alpha-unattainable")
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/body/parameters/alpha"]


def test_limits_that_were_not_measured(client: TestClient) -> None:
    assert client.get(f"/v1/models/{MODEL}/limits").json()["limits"] == []
    for path in ("1", "1/chart"):
        answer = client.get(f"/v1/models/{MODEL}/limits/{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "limit-not-found")
