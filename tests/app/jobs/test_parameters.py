"""The parameters of jobs: typed in the OpenAPI document by job type, and refused by name over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from snf_app.jobs.checks import PARAMETERS
from snf_client.schemas.training import TrainingConfig

TRAIN = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-tiny"}
SCORE = {"type": "score", "dataset": "mnist-mini", "model": "mnist-snf-glow"}
THOROUGH = {"type": "evaluate", "parameters": {"thorough": False, "corruptions": True}}


@pytest.mark.parametrize("request_name", ["JobRequest", "JobDraft"])
def test_the_document_says_which_members_a_job_type_needs_and_lacks(client: TestClient, request_name: str) -> None:
    request = client.get("/openapi.json").json()["components"]["schemas"][request_name]
    path = "/v1/jobs/estimate" if request_name == "JobRequest" else "/v1/jobs/check-datasets"
    rest = {"dataset": "mnist-mini"} if request_name == "JobRequest" else {}
    for rule in request["allOf"]:
        job_type, then = rule["if"]["properties"]["type"]["const"], rule["then"]
        valid = {"type": job_type} | rest
        for name in then.get("required", ()):
            valid |= {"parameters": {"corruptions": True}} if name == "parameters" else {name: "mnist-snf-glow"}
        # 503: the job store does not answer.
        assert client.post(path, json=valid).status_code in (200, 503), valid
        for name in then.get("required", ()):
            lacking = {key: value for key, value in valid.items() if key != name}
            assert client.post(path, json=lacking).status_code == 422, lacking
        for name in (name for name, schema in then["properties"].items() if schema is False):
            value = True if name == "promote" else {} if name == "architecture" else "cpu"
            assert client.post(path, json=valid | {name: value}).status_code == 422, (valid, name)
    types = {rule["if"]["properties"]["type"]["const"]: rule["then"] for rule in request["allOf"]}
    assert types["score"]["required"] == ["model"]
    assert types["recommend"]["properties"]["model"] == (False if request_name == "JobRequest" else {"type": "null"})
    assert types["score"]["properties"]["preset"] is False


@pytest.mark.parametrize("job_type", ["train", "recommend"])
def test_a_draft_without_a_model_may_say_null(client: TestClient, job_type: str) -> None:
    answer = client.post("/v1/jobs/check-datasets", json={"type": job_type, "model": None})
    assert answer.status_code == 200, answer.text


NO_MIXING = "whitening: expected a flow with an exact or self-normalizing 1x1 convolution"
NO_MATRIX = "corrected_directions: expected a flow with a self-normalizing dense layer or 1x1 convolution"
NO_NETWORK = "optimizer: expected a flow with couplings or splits for muon"
CONV = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-conv-9l"}
LU = {"family": "glow", "levels": 1, "steps": 1, "hidden": 4, "linear": "lu"}
OWN = {"type": "train", "dataset": "mnist-mini", "model": "m", "architecture": LU}
WHITE = {"whitening": True}
RECOMMEND = {"type": "recommend", "dataset": "mnist-mini"}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a converted seed": (RECOMMEND | {"parameters": {"seed": False}}, "parameters/seed", ""),
    "a converted number": (SCORE | {"parameters": {"images_per_part": "100"}}, "parameters/images_per_part", ""),
    "a converted batch": (TRAIN | {"parameters": {"batch_size": "64"}}, "parameters/batch_size", ""),
    "a converted promote": (TRAIN | {"promote": "yes"}, "promote", ""),
    "a converted switch": (
        SCORE | {"type": "evaluate", "parameters": {"corruptions": 1}}, "parameters/corruptions", ""
    ),
    "whitening of a preset": (CONV | {"parameters": WHITE}, "parameters/whitening", NO_MIXING),
    "whitening of a file": (OWN | {"parameters": WHITE}, "parameters/whitening", NO_MIXING),
    "a setting of a file": (OWN | {"architecture": LU | {"training": WHITE}}, "architecture", NO_MIXING),
    "an optimizer": (CONV | {"parameters": {"optimizer": "muon"}}, "parameters/optimizer", NO_NETWORK),
    "corrections": (CONV | {"parameters": {"corrected_directions": 4}}, "parameters/corrected_directions", NO_MATRIX),
    "max_step": (TRAIN | {"parameters": {"max_step": 5}}, "parameters/max_step", "did you mean max_steps?"),
    "tiles of pixels": (TRAIN | {"parameters": {"fit": "tiles"}}, "parameters/fit", "choose the preset snf-features"),
    "an odd side": (TRAIN | {"parameters": {"image_size": 9}}, "dataset", "multiples of 2, at least 8"),
    "a backbone": (TRAIN | {"parameters": {"backbone": "x"}}, "parameters/backbone", "no effect on snf-glow-tiny"),
    "alhpa": (SCORE | {"parameters": {"alhpa": 0.1}}, "parameters/alhpa", "did you mean alpha?"),
    "mnist-min": (SCORE | {"dataset": "mnist-min"}, "dataset", "did you mean mnist-mini?"),
    "mnist-snf-glw": (SCORE | {"model": "mnist-snf-glw"}, "model", "did you mean mnist-snf-glow?"),
    "snf-glow-smal": (
        TRAIN | {"preset": "snf-glow-smal"}, "preset", "did you mean snf-glow-small? There are: snf-glow-tiny"
    ),
    "huge": (TRAIN | {"preset": "huge"}, "preset", "there is no preset 'huge'; there are: snf-glow-tiny"),
    "promot": (TRAIN | {"promot": True}, "promot", "did you mean promote?"),
    "trian": (TRAIN | {"type": "trian"}, "type", "got 'trian'; did you mean train?"),
    "thorough": (SCORE | THOROUGH, "parameters/thorough", "leave `thorough` out"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_the_likely_meaning(client: TestClient, name: str) -> None:
    request, pointer, detail = WRONG[name]
    answer = client.post("/v1/jobs/estimate", json=request)
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["pointer"]) == (422, f"/body/{pointer}")
    assert detail in error["detail"]


def test_a_whole_number_may_have_a_point(client: TestClient) -> None:
    # As in JSON Schema; 503: the job store does not answer.
    assert client.post("/v1/jobs/estimate", json=TRAIN | {"parameters": {"batch_size": 64.0}}).status_code == 503


@pytest.mark.parametrize("request_name", ["JobRequest", "JobDraft"])
def test_the_document_types_the_parameters_of_every_job_type(client: TestClient, request_name: str) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    request = schemas[request_name]
    typed = {rule["if"]["properties"]["type"]["const"]: rule["then"]["properties"] for rule in request["allOf"]}
    assert sorted(typed) == sorted(request["properties"]["type"]["enum"]) == sorted(PARAMETERS)
    for job_type, kind in PARAMETERS.items():
        [name] = [typed[job_type]["parameters"]["$ref"].rpartition("/")[2]]
        assert list(schemas[name]["properties"]) == list(kind.model_fields)
        assert all(described["description"] for described in schemas[name]["properties"].values())
        assert schemas[name]["additionalProperties"] is False
    assert {option["$ref"] for option in request["properties"]["parameters"]["anyOf"]} == {
        rule["parameters"]["$ref"] for rule in typed.values()
    }
    settings = schemas["TrainingConfig"]["properties"]
    assert (settings["batch_size"]["minimum"], settings["batch_size"]["maximum"]) == (2, 4096)
    assert [option["type"] for option in settings["image_size"]["anyOf"]] == ["array", "integer", "null"]
    assert "TrainingConfig" not in request["properties"]["parameters"]["description"]


def test_the_examples_have_valid_parameters(client: TestClient) -> None:
    for example in client.get("/openapi.json").json()["components"]["schemas"]["JobRequest"]["examples"]:
        kind: type[BaseModel] = PARAMETERS[example["type"]]
        kind.model_validate(example.get("parameters", {}))


def test_the_groups_of_the_schema_are_all_settings(client: TestClient) -> None:
    schema = client.get("/v1/presets").json()["parameters"]
    names = [name for names in schema["x-groups"].values() for name in names]
    assert sorted(names) == sorted(TrainingConfig.model_fields) == sorted(schema["properties"])
