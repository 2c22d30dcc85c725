"""The Open Inference Protocol over HTTP: equal to the native calls to the bit, and every error in its own form."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor

from snf_app.http.errors import Problem
from snf_app.inference_protocol import service as infer_service
from snf_app.inference_protocol.service import MEDIA_TYPES
from snf_models.registry.registry import Registry
from snf_runtime.scoring.evidence import FlowPass
from snf_worker.keys import KeyFile
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import unfit_artifact
from tests.worker.support.helpers import until

MODEL = "mnist-snf-glow"
MODEL_PATH = f"/v2/models/{MODEL}"
INFER = f"{MODEL_PATH}/infer"
PIXELS = np.stack([np.asarray(Image.open(path)) for path in DIGITS[:5]])[:, None]
OUTPUTS = ["log_likelihood", "bits_per_dim", "p_value"]
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = service_settings(tmp_path_factory.mktemp("home"))
    Registry(settings.registry_dir).publish(unfit_artifact(tmp_path_factory), "hasty")
    with client_of(settings) as made:
        until(lambda: made.get("/v2/health/ready").status_code == 200)
        yield made


@pytest.fixture(scope="module")
def native(client: TestClient) -> dict[str, list[float]]:
    """The numbers of the native call for the same images."""
    file = io.BytesIO()
    np.save(file, PIXELS[:, 0])
    headers = {"content-type": "application/x-npy"}
    answer = client.post(f"/v1/models/{MODEL}/score", content=file.getvalue(), headers=headers).raise_for_status()
    results = answer.json()["results"]
    numbers = {name: [result[name] for result in results] for name in OUTPUTS[:2]}
    return numbers | {"p_value": [result["anomaly"]["p_value"] for result in results]}


def request_of(pixels: Any, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}
    return {"inputs": [tensor], **changes}


def send_binary(client: TestClient, pixels: Any, path: str = INFER, **changes: Any) -> Any:
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    described = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": pixels.size}}], **changes}).encode()
    return client.post(path, content=described + pixels.tobytes(), headers={HEADER: str(len(described))})


def numbers(answer: Any) -> dict[str, list[float]]:
    """The numbers of a JSON answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert HEADER not in answer.headers
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def binary_numbers(answer: Any) -> dict[str, list[float]]:
    """The numbers of an answer all of whose outputs are binary."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers[HEADER])
    described, data = json.loads(answer.content[:length]), answer.content[length:]
    found = {}
    for output in described["outputs"]:
        size = output["parameters"]["binary_data_size"]
        assert "data" not in output
        found[output["name"]] = np.frombuffer(data[:size], "<f8").tolist()
        data = data[size:]
    assert data == b""
    return found


def error(answer: Any, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert text in answer.json()["error"]


def test_json_equals_the_native_answer_to_the_bit(client: TestClient, native: dict[str, list[float]]) -> None:
    answer = client.post(INFER, json=request_of(PIXELS, id="lot-7"))
    assert numbers(answer) == native
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == (MODEL, "1", "lot-7")
    assert body["parameters"] == {"calibration": 0}
    assert [output["name"] for output in body["outputs"]] == OUTPUTS
    assert {(output["datatype"], *output["shape"]) for output in body["outputs"]} == {("FP64", 5)}


def test_binary_tensors_equal_it_too(client: TestClient, native: dict[str, list[float]]) -> None:
    assert numbers(send_binary(client, PIXELS)) == native
    assert binary_numbers(send_binary(client, PIXELS, parameters={"binary_data_output": True})) == native
    answer = client.post(INFER, json=request_of(PIXELS, parameters={"binary_data_output": True}))
    assert binary_numbers(answer) == native
    assert "id" not in json.loads(answer.content[: int(answer.headers[HEADER])])


def test_an_image_has_its_numbers_alone_and_in_any_order(client: TestClient, native: dict[str, list[float]]) -> None:
    for index in (0, 3):
        alone = numbers(client.post(INFER, json=request_of(PIXELS[index : index + 1])))
        assert alone == {name: values[index : index + 1] for name, values in native.items()}
    turned = numbers(send_binary(client, PIXELS[::-1]))
    assert turned == {name: values[::-1] for name, values in native.items()}


def test_outputs_are_those_asked_for(client: TestClient, native: dict[str, list[float]]) -> None:
    outputs: list[dict[str, Any]] = [{"name": "p_value", "parameters": {"binary_data": True}}]
    outputs.append({"name": "log_likelihood", "parameters": {"binary_data": False}})
    answer = client.post(INFER, json=request_of(PIXELS, outputs=outputs, parameters={"binary_data_output": True}))
    length = int(answer.headers[HEADER])
    first, second = json.loads(answer.content[:length])["outputs"]
    assert (first["name"], first["parameters"], "data" in first) == ("p_value", {"binary_data_size": 40}, False)
    assert second["data"] == native["log_likelihood"]
    assert np.frombuffer(answer.content[length:]).tolist() == native["p_value"]


def test_large_json_is_parsed_in_a_thread_and_gives_the_same(client: TestClient) -> None:
    many = np.tile(PIXELS, (20, 1, 1, 1))
    answer = client.post(INFER, json=request_of(many))
    assert len(answer.request.content) > 100_000
    assert numbers(answer) == numbers(send_binary(client, many))


@pytest.mark.parametrize("content_type", [None, "application/json; charset=utf-8", *MEDIA_TYPES])
def test_content_types_of_clients(client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = client.post(INFER, content=json.dumps(request_of(PIXELS[:1])).encode(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}/versions/1", f"{MODEL}@live"])
def test_metadata_and_readiness_of_a_model(client: TestClient, name: str) -> None:
    body = client.get(f"/v2/models/{name}").raise_for_status().json()
    assert (body["name"], body["versions"], body["platform"]) == (MODEL, ["1"], "snf_density")
    assert body["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 28, 28], "parameters": {}}]
    assert [(one["name"], one["datatype"], one["shape"]) for one in body["outputs"]] == [
        (output, "FP64", [-1]) for output in OUTPUTS
    ]
    assert body["outputs"][0]["parameters"] == {"unit": "nats"}
    parameters = body["parameters"]
    detail = client.get(f"/v1/models/{MODEL}").json()
    assert (parameters["kind"], parameters["version"], parameters["calibration"]) == ("density", 1, 0)
    assert parameters["smallest_p"] == detail["serving"]["smallest_p"]
    assert parameters["default_alpha"] == detail["serving"]["default_alpha"]
    assert client.get(f"/v2/models/{name}/ready").json() == {"name": MODEL, "ready": True}
    assert client.post(f"/v2/models/{name}/infer", json=request_of(PIXELS[:1])).status_code == 200


def test_health_and_server(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    body = client.get("/v2").json()
    assert (body["name"], body["extensions"]) == ("snf-density", ["binary_tensor_data"])
    assert body["version"] == client.get("/healthz").json()["version"]


def test_a_model_without_a_live_version(client: TestClient) -> None:
    for answer in (
        client.post("/v2/models/hasty/infer", json=request_of(PIXELS)),
        client.get("/v2/models/hasty"),
        client.get("/v2/models/hasty/ready"),
    ):
        error(answer, 409, "The model has no live version: ")
    assert client.post("/v2/models/hasty/versions/1/infer", json=request_of(PIXELS)).status_code == 200
    assert client.get("/v2/models/hasty/versions/1").json()["parameters"]["version"] == 1


@pytest.mark.parametrize(
    "name", ["nobody", f"{MODEL}/versions/7", f"{MODEL}/versions/x", f"{MODEL}:1/versions/1", "A!"]
)
def test_models_that_are_not_there(client: TestClient, name: str) -> None:
    for answer in (
        client.post(f"/v2/models/{name}/infer", json=request_of(PIXELS)),
        client.get(f"/v2/models/{name}"),
        client.get(f"/v2/models/{name}/ready"),
    ):
        error(answer, 404, "No such model: ")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "output": ({"outputs": [{"name": "logits"}]}, "expected log_likelihood, bits_per_dim, p_value, got 'logits'"),
    "twice": ({"outputs": [{"name": "p_value"}] * 2}, "expected each output once, got 'p_value' 2 times"),
    "classes": ({"outputs": [{"name": "p_value", "parameters": {"classification": 3}}]}, "/parameters/classification"),
    "binary": ({"outputs": [{"name": "p_value", "parameters": {"binary_data": 1}}]}, "/parameters/binary_data"),
    "parameter": ({"parameters": {"priority": 1}}, "/body/parameters/priority: there is no such parameter"),
    "sequence": ({"parameters": {"sequence_id": 1, "sequence_start": True}}, "/body/parameters/sequence_id"),
    "member": ({"colour": "red"}, "/body/colour"),
    "model": ({"model_name": "another"}, "/body/model_name: expected 'mnist-snf-glow'"),
    "id": ({"id": 7}, "/body/id: expected a valid string"),
    "long id": ({"id": "x" * 1025}, "/body/id"),
    "timeout": ({"parameters": {"timeout": 1.5}}, "/body/parameters/timeout: expected a valid integer"),
    "long timeout": ({"parameters": {"timeout": 10**12}}, "/body/parameters/timeout: expected a value less than"),
    "source": ({"parameters": {"source": "a camera!"}}, "/body/parameters/source"),
    "monitor": ({"parameters": {"monitor": False}}, "/body/parameters/monitor: there is no such parameter any more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_request_may_not_ask(client: TestClient, name: str) -> None:
    changes, text = WRONG[name]
    error(client.post(INFER, json=request_of(PIXELS, **changes)), 422, text)


def test_the_model_of_the_path_may_be_repeated(client: TestClient) -> None:
    for name in (MODEL, f"{MODEL}@live"):
        path = f"/v2/models/{name}/infer"
        assert client.post(path, json=request_of(PIXELS[:1], model_name=name)).status_code == 200


def test_errors_of_the_body(client: TestClient) -> None:
    error(client.post(INFER, content=b"?"), 400, "expected valid JSON")
    error(client.post(INFER, content=b"{}", headers={HEADER: "3"}), 422, "expected at most the 2 bytes of the body")
    for given in ("x", "", "-1", "1e3", "0x10", "12.0", "1" * 19, "a" * 1000):
        error(client.post(INFER, content=b"{}", headers={HEADER: given}), 422, "expected a number of bytes, got")
    error(client.post(INFER, content=b"{}", headers={HEADER: "9999999999"}), 413, "send the tensor as binary data")
    error(client.post(INFER, content=b" " * (4 * 2**20 + 1)), 413, "send the tensor as binary data")
    error(client.post(INFER, content=b" " * (1024 * 784 + 3), headers={HEADER: "2"}), 413, "larger than 802818 bytes")
    error(client.post(INFER, content=b"x", headers={"content-type": "image/png"}), 415, "content type is 'image/png'")
    many = send_binary(client, np.zeros((1025, 1, 28, 28), np.uint8))
    assert many.status_code == 413
    assert "error" in many.json()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_compressed_bodies_are_refused(client: TestClient, encoding: str) -> None:
    answer = client.post(INFER, content=b"\x1f\x8b", headers={"content-encoding": encoding})
    error(answer, 415, f"compressed as '{encoding}'")
    assert answer.headers["accept-encoding"] == "identity"


def test_errors_of_paths_queries_and_headers(client: TestClient) -> None:
    error(client.get("/v2/nowhere"), 404, "GET /v2/nowhere is not a call of this service")
    wrong = client.get(INFER)
    error(wrong, 405, "GET /v2/models/mnist-snf-glow/infer is not a call")
    assert wrong.headers["allow"] == "POST"
    error(client.post(f"{INFER}?draws=2", json=request_of(PIXELS)), 422, "/query/draws")
    error(client.post(INFER, json={}, headers={"x-timeout-ms": "0"}), 422, "X-Timeout-Ms")
    error(client.get("/v2", headers={"host": "evil.example"}), 403, "does not answer to 'evil.example'")
    error(client.post(INFER, json={}, headers={"origin": "https://evil.example"}), 403, "Another origin")
    assert client.get("/v20").headers["content-type"] == "application/problem+json"


def test_deadlines(client: TestClient) -> None:
    for parameters, headers in (({"timeout": 1}, {}), ({"timeout": 1}, {"x-timeout-ms": "60000"})):
        answer = client.post(INFER, json=request_of(PIXELS, parameters=parameters), headers=headers)
        error(answer, 504, "The deadline passed: the work took longer than 1e-06 s")
    # The longer one of the two does not count, and 0 is the default of the service.
    error(
        client.post(
            INFER, json=request_of(np.tile(PIXELS, (200, 1, 1, 1)), parameters={"timeout": 60_000_000}),
            headers={"x-timeout-ms": "1"},
        ),
        504, "longer than 0.001 s",
    )  # fmt: skip
    assert client.post(INFER, json=request_of(PIXELS, parameters={"timeout": 0})).status_code == 200
    assert client.post(INFER, json=request_of(PIXELS, parameters={"timeout": 60_000_000})).status_code == 200


def test_an_image_without_a_score_fails_the_request_and_is_named(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = FlowPass.terms

    def overflow(found: FlowPass) -> Tensor:
        terms = exact(found)
        terms[1] = float("nan")
        terms[3] = float("inf")
        return terms

    monkeypatch.setattr(FlowPass, "terms", overflow)
    error(client.post(INFER, json=request_of(PIXELS)), 422, "image 1, 3 of 5 (counted from 0)")


def test_images_count_in_drift_and_metrics(client: TestClient, native: object) -> None:
    def counted() -> tuple[float, int]:
        scored = f'snf_images_scored_total{{model="{MODEL}",version="1"}} '
        [images] = [
            float(line.removeprefix(scored)) for line in client.get("/metrics").text.splitlines() if scored in line
        ]
        windows = client.get(f"/v1/models/{MODEL}/drift").json()["drift"]
        return images, sum(window["images"] for window in windows if window["source"] == "line-9")

    images, drifted = counted()
    send_binary(client, PIXELS, parameters={"source": "line-9"}).raise_for_status()
    send_binary(client, PIXELS).raise_for_status()
    assert counted() == (images + 10, drifted + 5)


def test_keys_roles_and_rates(tmp_path: Path) -> None:
    settings = service_settings(tmp_path)
    file = KeyFile(settings.home / "keys.json")
    keys = {role: {"x-api-key": file.create(role, role)[1]} for role in ("read", "score")}
    few = {"authorization": f"Bearer {file.create('few', 'score', images='5/hour')[1]}"}
    with client_of(settings) as client:
        assert client.get("/v2/health/live").status_code == 200
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        for path in ("/v2", MODEL_PATH, f"{MODEL_PATH}/ready"):
            missing = client.get(path)
            error(missing, 401, "A valid key is needed: ")
            assert missing.headers["www-authenticate"].startswith("Bearer")
            assert client.get(path, headers=keys["read"]).status_code == 200
        body = request_of(PIXELS)
        error(client.post(INFER, json=body), 401, "A valid key is needed: ")
        error(client.post(INFER, json=body, headers=keys["read"]), 403, "this call needs 'score'")
        assert client.post(INFER, json=body, headers=keys["score"]).status_code == 200
        assert client.post(INFER, json=body, headers=few).status_code == 200
        refused = client.post(INFER, json=body, headers=few)
        error(refused, 429, "Over the rate limit of the key: ")
        assert int(refused.headers["retry-after"]) > 0
        many = request_of(np.tile(PIXELS, (2, 1, 1, 1)))
        error(client.post(INFER, json=many, headers=few), 422, "larger than the rate limit")


def test_more_lists_than_a_tensor_needs_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (600, 3, 32, 32)  # nearly as much as its JSON may have
    nested = json.dumps(np.zeros(shape, np.uint8).tolist(), separators=(",", ":"))
    tensor = f'{{"inputs":[{{"name":"image","shape":{list(shape)},"datatype":"UINT8","data":{nested}}}]}}'
    assert infer_service.parse_request(infer_service.InferBody(tensor.encode(), memoryview(b""))).inputs
    monkeypatch.setattr(infer_service, "from_json", None)
    for part in (b"[],", b"{},", b"[[[[]]]],"):
        body = b'{"inputs":[' + part * infer_service.MAX_LISTS
        with pytest.raises(Problem, match="at most 131072 lists and objects"):
            infer_service.parse_request(infer_service.InferBody(body, memoryview(b"")))
