"""Requests for jobs on a model that cannot succeed: each is refused, and the error points at what is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import DIGITS, mixed, npz, pngs, zipped
from tests.support.service_settings import client_of, service_settings

MODEL = "mnist-snf-glow"
SCORING: dict[str, Any] = {"type": "score", "model": MODEL, "dataset": "mnist-mini"}
EVALUATION: dict[str, Any] = {
    "type": "evaluate", "model": MODEL, "dataset": "mnist-mini", "parameters": {"corruptions": True, "images": 40}
}  # fmt: skip


LIMIT: dict[str, Any] = {"type": "limit", "model": MODEL, "dataset": "mnist-mini"}
CALIBRATION: dict[str, Any] = {"type": "calibrate", "model": MODEL, "dataset": "own"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with datasets, whose job store does not answer: it would be asked for no request here."""
    with client_of(service_settings(tmp_path_factory.mktemp("home"))) as made:
        for name, content in (
            ("own", ("own.zip", zipped(pngs(60, 6)))),
            ("few", ("few.zip", zipped(pngs(12)))),
            ("small", ("small.npz", npz(images=DIGITS[:40, 0, 2:26, 2:26].copy()))),
            ("around", ("around.zip", zipped(mixed()))),
        ):
            upload(made, name, content).raise_for_status()
        yield made


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    *((job, {"preset": "snf-glow-tiny"}, "/body/preset") for job in (SCORING, EVALUATION, LIMIT)),
    *((job, {"model": "nobody"}, "/body/model") for job in (SCORING, EVALUATION, LIMIT)),
    *((job, {"dataset": "nothing"}, "/body/dataset") for job in (SCORING, EVALUATION, LIMIT)),
    *((job, {"parameters": {"calibration": 99}}, "/body/parameters/calibration") for job in (SCORING, LIMIT)),
    (SCORING, {"model": f"{MODEL}:9"}, "/body/model"),
    (SCORING, {"parameters": {"max_steps": 5}}, "/body/parameters/max_steps"),
    (SCORING, {"dataset": "around"}, "/body/dataset"),
    (EVALUATION, {"parameters": {}}, "/body/parameters"),
    (EVALUATION, {"parameters": {"against": ["nothing"]}}, "/body/parameters/against/0"),
    (EVALUATION, {"parameters": {"against": ["mnist-mini"]}}, "/body/parameters/against/0"),
    (EVALUATION, {"parameters": {"corruptions": True, "images": 1}}, "/body/parameters/images"),
    (EVALUATION, {"parameters": {"corruptions": True, "max_steps": 1}}, "/body/parameters/max_steps"),
    (LIMIT, {"dataset": "small"}, "/body/dataset"),
    (LIMIT, {"parameters": {"shapes": ["crater"]}}, "/body/parameters/shapes/0"),
    (LIMIT, {"parameters": {"contrasts": [0]}}, "/body/parameters/contrasts/0"),
    (LIMIT, {"parameters": {"images": 0}}, "/body/parameters/images"),
    *((CALIBRATION, {"dataset": name}, "/body/dataset") for name in ("nothing", "few", "small")),
    (CALIBRATION, {"promote": True}, "/body/promote"),
    (CALIBRATION, {"parameters": {"activate": "perhaps"}}, "/body/parameters/activate"),
    (CALIBRATION, {"parameters": {"alpha": 0.1}}, "/body/parameters/alpha"),
]


@pytest.mark.parametrize(("job", "changes", "pointer"), WRONG)
def test_what_is_wrong_is_pointed_at(
    client: TestClient, job: dict[str, Any], changes: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/jobs", json=job | changes)
    assert answer.status_code == 422
    assert pointer in [one["pointer"] for one in answer.json()["errors"]]


@pytest.mark.parametrize("job", [SCORING, LIMIT], ids=["score", "limit"])
def test_an_alpha_that_the_calibration_cannot_give(client: TestClient, job: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json=job | {"parameters": {"alpha": 1e-9}})
    assert (answer.status_code, answer.json()["type"]) == (422, "alpha-unattainable")
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/body/parameters/alpha"]


@pytest.mark.parametrize(
    ("call", "body", "slug", "pointer"),
    [
        ("GET /models/nobody", None, "model-not-found", "/path/ref"),
        ("GET /models/nobody:3/card", None, "model-not-found", "/path/ref"),
        (f"GET /models/{MODEL}:9/limits", None, "model-not-found", "/path/ref"),
        (f"GET /models/{MODEL}@champion", None, "model-not-found", "/path/ref"),
        ("POST /models/nobody/calibrations", {"dataset": "own"}, "model-not-found", "/path/ref"),
        (f"PUT /models/{MODEL}/aliases/champion", {"version": 9}, "model-not-found", "/body/version"),
        ("PUT /models/nobody/aliases/champion", {"version": 9}, "model-not-found", "/path/name"),
        (f"DELETE /models/{MODEL}/aliases/champion", None, "model-not-found", "/path/alias"),
        (f"PUT /models/{MODEL}/calibrations/active", {"calibration": 9}, "calibration-not-found", "/body/calibration"),
        (f"GET /models/{MODEL}/calibrations/9", None, "calibration-not-found", "/path/number"),
        (f"GET /models/{MODEL}/calibrations/9/comparison", None, "calibration-not-found", "/path/number"),
        (f"GET /models/{MODEL}/calibrations/0/comparison?against=9", None, "calibration-not-found", "/query/against"),
        (f"GET /models/{MODEL}/limits/1", None, "limit-not-found", "/path/number"),
        (f"GET /models/{MODEL}/limits/1/chart", None, "limit-not-found", "/path/number"),
        (f"DELETE /models/{MODEL}/drift", None, "drift-not-found", "/path/ref"),
        (f"DELETE /models/{MODEL}/drift/line-1/left", None, "drift-not-found", "/path/source"),
        ("GET /datasets/nothing", None, "dataset-not-found", "/path/name"),
        ("GET /datasets/mnist-mini/contact-sheet", None, "contact-sheet-not-found", "/path/name"),
        ("GET /jobs/nobody/events", None, "job-not-found", "/path/job_id"),
        (f"GET /runs/{'0' * 26}", None, "run-not-found", "/path/run_id"),
    ],
)
def test_what_is_not_found_has_a_pointer_to_its_name(
    client: TestClient, call: str, body: dict[str, Any] | None, slug: str, pointer: str
) -> None:
    method, path = call.split(" ")
    answer = client.request(method, f"/v1{path}", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (404, slug), problem
    assert problem["errors"] == [{"pointer": pointer, "detail": problem["detail"]}]


def test_no_limit_is_listed_before_the_first_measurement(client: TestClient) -> None:
    assert client.get(f"/v1/models/{MODEL}/limits").json()["limits"] == []
