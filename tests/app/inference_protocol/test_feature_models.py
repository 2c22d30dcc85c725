"""Feature models by the Open Inference Protocol: bits per dimension are NaN, and tiles take images of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from snf_app.http.admission import FairShares
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_runtime.anomaly.detection import Detection
from tests.support.compiled_cache import compiled
from tests.support.service_settings import client_of, service_settings
from tests.support.tiled import mosaic, tiled_artifact

HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiled_artifact(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def client(
    artifact: Path, tmp_path_factory: pytest.TempPathFactory, backbones: Path, no_shipped_models: None
) -> Iterator[TestClient]:
    settings = service_settings(tmp_path_factory.mktemp("home"), backbones=backbones)
    Registry(settings.registry_dir).publish(artifact, "tiles", promote=True)
    with client_of(settings) as made:
        yield made


def infer(client: TestClient, pixels: Any, **parameters: Any) -> Any:
    tensor: dict[str, Any] = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": pixels.size}
    described = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    headers = {HEADER: str(len(described))}
    return client.post("/v2/models/tiles/infer", content=described + pixels.tobytes(), headers=headers)


def test_bits_per_dimension_are_nan_and_any_size_is_scored(client: TestClient, artifact: Path, backbones: Path) -> None:
    scorer = load_model(artifact, options=compiled(backbones=backbones))
    for rows, columns in ((2, 3), (4, 1)):
        pixels = np.stack([mosaic(seed, rows, columns) for seed in range(2)])
        wanted = scorer.detect(list(pixels))
        described = infer(client, pixels).raise_for_status()
        found = {output["name"]: output["data"] for output in described.json()["outputs"]}
        assert found["bits_per_dim"] == [None, None]
        for index, image in enumerate(wanted):
            assert isinstance(image, Detection)
            assert found["log_likelihood"][index] == image.likelihood.log_likelihood
            assert found["p_value"][index] == image.verdict.p_value
        answer = infer(client, pixels, binary_data_output=True)
        tensors = np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f8").reshape(3, 2)
        assert np.isnan(tensors[1]).all()
        assert tensors[0].tolist() == found["log_likelihood"]


def test_images_of_a_size_that_was_not_calibrated_are_refused(client: TestClient) -> None:
    refused = infer(client, np.stack([mosaic(seed, 8, 8) for seed in range(2)]))
    assert refused.status_code == 422
    assert "image 0, 1 of 2 (counted from 0): expected 1 to 9 tile(s) of 64 pixels" in refused.json()["error"]


def test_metadata_say_so(client: TestClient) -> None:
    body = client.get("/v2/models/tiles").raise_for_status().json()
    assert body["inputs"][0]["shape"] == [-1, 1, -1, -1]
    assert body["parameters"]["kind"] == "feature_density"


def test_pixels_in_memory_are_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = client.app_state["fair_queue"]
    monkeypatch.setattr(queue, "_pixels", FairShares(1000, 1000))
    refused = infer(client, np.zeros((1, 1, 32, 32), np.uint8))
    assert refused.status_code == 413
    assert refused.json()["error"].startswith("Too many pixels: ")
