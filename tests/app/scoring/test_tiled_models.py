"""Models of tiles over HTTP and on the command line: images of any size, within limits of pixels and of time."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_app.http.admission import FairShares, RequestDeadline, deadline
from snf_app.http.errors import Problem
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_queue import FairQueue
from snf_app.scoring.service import SECONDS_PER_MEGAPIXEL
from snf_models.registry.calibrations import calibration_bytes
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_runtime.anomaly.detection import Detection
from snf_runtime.images.codec import encode_png
from snf_worker.settings import Settings
from tests.support.compiled_cache import compiled
from tests.support.service_settings import client_of, service_settings
from tests.support.tiled import mosaic, tiled_artifact, with_fault

HEADER = "Inference-Header-Content-Length"
SIZES = [(2, 3), (5, 2), (1, 1), (4, 4)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, backbones: Path, scorer: Scorer) -> Settings:
    """A home with the model "tiles", whose calibration judges all sizes as in earlier versions, and "sized"."""
    artifact, _ = tiled_artifact(tmp_path_factory)
    found = service_settings(tmp_path_factory.mktemp("home"), backbones=backbones)
    registry = Registry(found.registry_dir)
    registry.publish(artifact, "sized", promote=True)
    registry.publish(artifact, "tiles", promote=True)
    earlier = calibration_bytes(replace(scorer.calibration, tile_counts=None))
    registry.calibrations("tiles", 1).publish(earlier, scorer.calibration_summary)
    return found


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with client_of(settings) as found:
        post(found, mosaic(0)).raise_for_status()  # loads the model, which may take longer than a request
        yield found


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Scorer:
    return load_model(tiled_artifact(tmp_path_factory)[0], options=compiled(backbones=backbones))


def post(
    client: TestClient,
    *images: np.ndarray[Any, Any],
    timeout_ms: int | None = 60_000,
    model: str = "tiles",
    **query: Any,
) -> Any:
    body = [("images", (f"{number}.png", encode_png(image))) for number, image in enumerate(images)]
    headers = {} if timeout_ms is None else {"X-Timeout-Ms": str(timeout_ms)}
    return client.post(f"/v1/models/{model}/score", params=query, files=body, headers=headers)


def test_images_of_different_sizes_share_a_request(client: TestClient, scorer: Scorer) -> None:
    images = [mosaic(number, *size) for number, size in enumerate(SIZES)]
    images[3] = with_fault(images[3], 60, 80)
    results = post(client, *images).raise_for_status().json()["results"]
    for image, result in zip(images, results, strict=True):
        [expected] = scorer.detect([image])
        assert isinstance(expected, Detection)
        assert result["log_likelihood"] == expected.likelihood.log_likelihood
        assert result["anomaly"]["p_value"] == expected.verdict.p_value
        assert result["preprocessing"]["resized"] is False
    assert results[2]["preprocessing"]["notes"] == ["smaller than a tile of 64 pixels: extended by mirroring"]
    boxes = [reason["box"] for reason in results[3]["anomaly"]["reasons"] if reason["box"]]
    assert boxes
    assert all(left < 96 and right > 80 and top < 76 and bottom > 60 for left, top, right, bottom in boxes)


def test_heat_maps_are_of_the_images_own_size(client: TestClient) -> None:
    image = mosaic(5, 3, 5)
    [result] = post(client, image, explain=True).raise_for_status().json()["results"]
    nats, z, anomaly = np.load(io.BytesIO(base64.b64decode(result["heat_map"]["npy"])))
    assert nats.shape == z.shape == anomaly.shape == image.shape[1:]
    assert nats.sum() == pytest.approx(result["log_likelihood"], rel=1e-9)
    assert result["heat_map"]["scale"] == 1
    with Image.open(io.BytesIO(base64.b64decode(result["heat_map"]["png"]))) as picture:
        assert picture.size == image.shape[:0:-1]


def test_heat_maps_of_many_pixels_are_of_one_image(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snf_app.scoring.service.MAX_EXPLAINED_PIXELS", 10_000)
    image = mosaic(5, 4, 4)
    assert post(client, image, explain=True).status_code == 200
    refused = post(client, image, image, explain=True)
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (413, "too-many-images")


def test_an_array_may_have_any_size(client: TestClient, scorer: Scorer) -> None:
    images, file = np.stack([mosaic(seed, 4, 3)[0] for seed in range(2)]), io.BytesIO()
    np.save(file, images)
    headers = {"Content-Type": "application/x-npy", "X-Timeout-Ms": "60000"}
    answer = client.post("/v1/models/tiles/score", content=file.getvalue(), headers=headers)
    found = [result["log_likelihood"] for result in answer.raise_for_status().json()["results"]]
    assert found == [score.log_likelihood for score in scorer.score(images[:, None])]


def test_images_of_sizes_that_were_not_calibrated_are_not_judged(
    client: TestClient, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [mosaic(1, 8, 8), mosaic(2, 3, 3), mosaic(3, 2, 30)]
    for query in ({}, {"explain": True}):
        results = post(client, *images[:2], model="sized", **query).raise_for_status().json()["results"]
        assert [result["status"] for result in results] == ["error", "ok"]
        assert results[0]["error"]["type"] == "size-not-calibrated"
    url, png = "/v1/models/sized/score", encode_png(images[2])
    alone = client.post(url, content=png, headers={"Content-Type": "image/png"})
    assert (alone.status_code, alone.json()["type"]) == (422, "size-not-calibrated")
    file = io.BytesIO()
    np.save(file, np.stack([images[0][0]] * 2))
    headers = {"Content-Type": "application/x-npy"}
    answer = client.post(url, content=file.getvalue(), headers=headers)
    assert (answer.status_code, answer.text.count("size-not-calibrated")) == (422, 2)
    monkeypatch.setenv("SNF_HOME", str(settings.home))
    monkeypatch.setenv("SNF_BACKBONES", str(settings.backbones_dir))
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, image in zip(paths, images[:2], strict=True):
        path.write_bytes(encode_png(image))
    result = CliRunner().invoke(cli, ["score", *map(str, paths), "-m", "sized", "--json"])
    assert result.exit_code == 4, result.output
    assert [found["status"] for found in json.loads(result.stdout)["results"]] == ["error", "ok"]


def test_a_large_image_has_more_time(client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RequestDeadline] = []

    @asynccontextmanager
    async def watched(timeout_ms: int | None, default_s: float) -> AsyncIterator[RequestDeadline]:
        async with deadline(timeout_ms, default_s) as time:
            given.append(time)
            yield time

    monkeypatch.setattr("snf_app.scoring.service.deadline", watched)
    image = mosaic(6, 20, 20)
    for timeout_ms, passes in ((None, 1), (None, 2), (60_000, 1)):
        [result] = post(client, image, timeout_ms=timeout_ms, draws=passes).raise_for_status().json()["results"]
        assert result["status"] == "ok"
    more = SECONDS_PER_MEGAPIXEL * image.size / 1e6
    default = settings.request_timeout_s
    assert [time.seconds for time in given] == pytest.approx([default + more, default + 2 * more, 60])
    answer = post(client, image, timeout_ms=1)
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (504, "deadline-exceeded")


def infer(client: TestClient, pixels: Any, model: str = "tiles", **parameters: Any) -> Any:
    tensor: dict[str, Any] = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": pixels.size}
    described = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    headers = {HEADER: str(len(described))}
    return client.post(f"/v2/models/{model}/infer", content=described + pixels.tobytes(), headers=headers)


def test_tensors_of_any_size_have_their_scores_and_nan_for_bits_per_dimension(
    client: TestClient, scorer: Scorer
) -> None:
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
    refused = infer(client, np.stack([mosaic(seed, 8, 8) for seed in range(2)]), model="sized")
    assert refused.status_code == 422
    assert "image 0, 1 of 2 (counted from 0): expected 1 to 9 tile(s) of 64 pixels" in refused.json()["error"]
    metadata = client.get("/v2/models/tiles").raise_for_status().json()
    assert (metadata["inputs"][0]["shape"], metadata["parameters"]["kind"]) == ([-1, 1, -1, -1], "feature_density")


def test_pixels_of_a_tensor_are_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = client.app_state["fair_queue"]
    monkeypatch.setattr(queue, "_pixels", FairShares(1000, 1000))
    refused = infer(client, np.zeros((1, 1, 32, 32), np.uint8))
    assert refused.status_code == 413
    assert refused.json()["error"].startswith("Too many pixels: ")


def test_pixels_in_memory_are_limited() -> None:
    large = FairQueue(1, 1, ServiceMetrics(), max_pixels=1000)
    with pytest.raises(Problem) as refused, large.hold_pixels("me", 1001):
        pass
    assert refused.value.status == 413
    with large.hold_pixels("me", 600):
        with pytest.raises(Problem) as full, large.hold_pixels("you", 600):
            pass
        assert full.value.status == 429
        with large.hold_pixels("you", 200):
            pass
    with large.hold_pixels("you", 1000):
        pass
