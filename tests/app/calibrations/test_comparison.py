"""A calibration compared with the one in use: what is said before is what scoring does after."""

import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from snf_app.calibrations.service import MAX_BYTES, MAX_IMAGES, MAX_VERSIONS, RecentEvidence
from snf_models.anomaly.reference_images import reference_of
from snf_models.artifacts.manifest import Precision
from snf_models.datasets import Dataset
from snf_models.registry.calibrations import calibration_bytes
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_runtime.anomaly.detection import StoredEvidence
from snf_runtime.scoring.evidence import Evidence
from tests.models.helpers import real_images
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

MODEL = "/v1/models/digits"
ACTIVE = f"{MODEL}/calibrations/active"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model of digits, and calibrations on thick digits: 1 for float32, 2 for bfloat16."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(service_settings(home).registry_dir)
    version = registry.publish(barely_trained(tmp_path_factory), "digits")
    scorer = load_model(version.path, options=EngineOptions("torch"))
    images = np.maximum(real_images(150), np.roll(real_images(150), 1, axis=3))
    datasets: dict[Precision, Dataset] = {
        "float32": Dataset("thick", images[:50], images[50:100], images[100:], test=images[:0], digest="thick"),
        "bfloat16": Dataset("few", images[:10], images[10:15], images[15:20], test=images[:0], digest="few"),
    }
    for precision, dataset in datasets.items():
        reference = reference_of(dataset, scorer.manifest)
        calibration, summary = scorer.calibrate(reference, lambda *_: None, precision)
        registry.calibrations("digits", 1).publish(calibration_bytes(calibration), summary, activate=False)
    return home


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TestClient]:
    """A service that has just started, with calibration 0 in use."""
    monkeypatch.setattr("snf_app.state.Registry", partial(Registry, zoo=tmp_path / "none"))
    with client_of(service_settings(home, engine="torch")) as client:
        client.put(ACTIVE, json={"calibration": 0}).raise_for_status()
        yield client


def files(images: np.ndarray[Any, Any]) -> list[tuple[str, tuple[str, bytes, str]]]:
    parts = []
    for number, image in enumerate(images):
        buffer = BytesIO()
        Image.fromarray(image[0]).save(buffer, "PNG")
        parts.append(("images", (f"{number}.png", buffer.getvalue(), "image/png")))
    return parts


def flagged(client: TestClient, images: np.ndarray[Any, Any], calibration: int, **query: Any) -> list[bool]:
    """The verdicts of the calibration, once scoring uses it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        body = client.post(f"{MODEL}/score", files=files(images), params=query).raise_for_status().json()
        if body["calibration"] == calibration:
            return [one["anomaly"]["is_anomaly"] for one in body["results"]]
        time.sleep(0.2)
    raise AssertionError(f"scores are by calibration {body['calibration']}")


def mixed() -> np.ndarray[Any, Any]:
    digits = real_images(320)[240:]
    thick = np.maximum.reduce([np.roll(digits[40:], shift, axis=3) for shift in range(3)])
    return np.concatenate([digits[:40], thick, 255 - digits[:5]])


@pytest.mark.parametrize("query", [{}, {"alpha": 0.05}])
def test_the_change_that_is_announced_is_the_change_that_happens(client: TestClient, query: dict[str, float]) -> None:
    images = mixed()
    before = flagged(client, images, 0, **query)
    told = client.put(ACTIVE, json={"calibration": 1, "dry_run": True}).raise_for_status().json()
    assert (told["active"], client.get(f"{MODEL}/calibrations").json()["active"]) == (0, 0)
    comparison = told["comparison"]
    assert comparison == client.get(f"{MODEL}/calibrations/1/comparison").json()
    client.put(ACTIVE, json={"calibration": 1}).raise_for_status()
    after = flagged(client, images, 1, **query)
    verdicts = comparison["verdicts"]
    assert (verdicts["images"], verdicts["anomalies_before"]) == (85, sum(before))
    assert verdicts["anomalies_after"] == sum(after)
    assert verdicts["to_anomaly"] == sum(new and not old for old, new in zip(before, after, strict=True))
    assert verdicts["to_normal"] == sum(old and not new for old, new in zip(before, after, strict=True))
    assert sum(before) != sum(after), "a comparison of equal verdicts shows nothing"
    assert verdicts["note"].startswith("the newest 85 images that this service process judged")


def test_thresholds_and_alphas_are_those_of_scoring(client: TestClient) -> None:
    comparison = client.get(f"{MODEL}/calibrations/1/comparison").json()
    assert comparison["before"]["smallest_p"] == comparison["before"]["default_alpha"] == 1 / 51
    assert comparison["after"]["smallest_p"] == 1 / 101
    assert comparison["before"]["attainable_alphas"] == [0.02, 0.05, 0.1]
    assert comparison["after"]["attainable_alphas"] == [0.01, 0.02, 0.05, 0.1]
    for side in ("before", "after"):
        number, threshold = comparison[side]["number"], comparison[side]["threshold"]
        client.put(ACTIVE, json={"calibration": number}).raise_for_status()
        flagged(client, mixed()[:1], number)
        body = client.post(f"{MODEL}/score", files=files(mixed())).json()
        for one in body["results"]:
            assert one["anomaly"]["is_anomaly"] == (round(one["anomaly"]["statistic"], 6) >= threshold)


def test_an_alpha_that_would_be_refused_is_counted(client: TestClient) -> None:
    client.put(ACTIVE, json={"calibration": 1}).raise_for_status()
    flagged(client, mixed(), 1, alpha=0.01)
    verdicts = client.get(f"{MODEL}/calibrations/0/comparison").json()["verdicts"]
    assert (verdicts["images"], verdicts["refused_before"], verdicts["refused_after"]) == (0, 0, 85)
    client.put(ACTIVE, json={"calibration": 0}).raise_for_status()
    flagged(client, mixed()[:1], 0)
    refused = client.post(f"{MODEL}/score", files=files(mixed()[:1]), params={"alpha": 0.01})
    assert refused.json()["type"] == "alpha-unattainable"


def test_what_cannot_be_compared_is_said(client: TestClient) -> None:
    none = client.get(f"{MODEL}/calibrations/1/comparison").json()["verdicts"]
    assert none["images"] == 0
    assert none["note"].startswith("no image: only a running service keeps the evidence")
    flagged(client, mixed()[:3], 0)
    assert client.get(f"{MODEL}/calibrations/1/comparison").json()["verdicts"]["images"] == 3
    rounded = client.get(f"{MODEL}/calibrations/2/comparison").json()["verdicts"]
    assert (rounded["images"], "another pass through the model" in rounded["note"]) == (0, True)
    assert client.get(f"{MODEL}/calibrations/9/comparison").status_code == 404
    assert client.put(ACTIVE, json={"calibration": 9, "dry_run": True}).status_code == 404
    back = client.get(f"{MODEL}/calibrations/0/comparison", params={"against": 1}).json()
    assert (back["before"]["number"], back["after"]["number"]) == (1, 0)


def image(value: float, cells: int = 4) -> StoredEvidence:
    evidence = Evidence(np.full((1, 3), value), np.full((1, cells), value))
    return StoredEvidence.of(evidence, None, "float32")


def test_what_is_kept_is_bounded() -> None:
    recent = RecentEvidence()
    recent.record("m", 1, "a", [image(value) for value in range(MAX_IMAGES + 50)])
    kept = recent.of("m", 1, "a")
    assert (len(kept), kept[0].evidence.whole[0, 0]) == (MAX_IMAGES, 50)
    assert recent.of("m", 1, "b") == recent.of("m", 2, "a") == []
    large = image(0, MAX_BYTES // 8 // 4)
    recent.record("m", 1, "a", [large] * 6)
    assert len(recent.of("m", 1, "a")) == 3
    recent.record("m", 1, "b", [image(1)])
    assert (len(recent.of("m", 1, "b")), recent.of("m", 1, "a")) == (1, [])
    for version in range(2, MAX_VERSIONS + 2):
        recent.record("m", version, "a", [image(1)])
    assert (recent.of("m", 1, "b"), len(recent.of("m", 2, "a"))) == ([], 1)


def test_a_row_of_a_batch_does_not_hold_the_batch() -> None:
    batch = Evidence(np.zeros((1000, 3)), np.zeros((1000, 4)))
    stored = StoredEvidence.of(batch[:1], None, "float32")
    assert stored.evidence.whole.base is None
    assert stored.nbytes == 7 * 8
