"""The Open Inference Protocol over HTTP: equal to the native calls to the bit, and every error in its own form."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from snf_app.http.errors import Problem
from snf_app.inference_protocol import service as infer_service
from snf_app.inference_protocol.service import MEDIA_TYPES
from snf_app.main import create_app
from snf_models.registry.registry import Registry
from tests.support.local import LOCAL
from tests.support.paths import DIGITS
from tests.support.service_settings import service_settings
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
    with TestClient(create_app(settings), LOCAL) as made:
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
