"""Models of features over HTTP: densities without bits/dim and samples; hybrids with both kinds of reasons."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from snf_client.schemas.models import ModelDetail, ModelPage
from snf_client.schemas.scores import Scores
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_worker.settings import Settings
from tests.end_to_end.support.service import files
from tests.support.compiled_cache import compiled
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import feature_artifact, hybrid_artifact

MODELS = ("parts", "both")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Settings:
    """An installation with a model of features, and one of pixels and features."""
    found = service_settings(tmp_path_factory.mktemp("home"), backbones=backbones)
    registry = Registry(found.registry_dir)
    registry.publish(feature_artifact(tmp_path_factory), "parts", promote=True)
    registry.publish(hybrid_artifact(tmp_path_factory), "both", promote=True)
    return found


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with client_of(settings) as found:
        yield found


def score(client: TestClient, model: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.post(f"/v1/models/{model}/score", params=query, files=files(*DIGITS[:3])).raise_for_status()
    assert Scores.model_validate(answer.json()).count == 3
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_a_density_of_features_has_nats_and_no_bits(client: TestClient) -> None:
    for result in score(client, "parts", explain=True):
        assert (result["kind"], result["bits_per_dim"]) == ("feature_density", None)
        pixels, features = result["terms"]
        assert pixels == {"scale": 0, "log_prior": 0.0, "log_det": 0.0}
        assert features["log_prior"] + features["log_det"] == pytest.approx(result["log_likelihood"], rel=1e-9)
        for reason in result["anomaly"]["reasons"]:
            assert reason["feature"] in {"feature-place", "feature-area", "feature-mean", "feature-image"}
            assert reason["z"] >= 0
        nats, _, _ = np.load(io.BytesIO(base64.b64decode(result["heat_map"]["npy"])))
        assert nats.shape == (28, 28)
        assert nats.sum() == pytest.approx(result["log_likelihood"], rel=1e-6)


def test_every_draw_of_features_is_the_same(client: TestClient) -> None:
    for one, other in zip(score(client, "parts"), score(client, "parts", draws=4), strict=True):
        assert one["log_likelihood"] == other["log_likelihood"]
        assert other["draws"] == {
            "k": 4,
            "mean": one["log_likelihood"],
            "standard_error": 0.0,
            "iw_bound": pytest.approx(one["log_likelihood"], rel=1e-9),
        }


def test_a_hybrid_scores_pixels_and_reasons_with_features(client: TestClient, settings: Settings) -> None:
    results = score(client, "both", draws=2, explain=True)
    assert {result["kind"] for result in results} == {"density"}
    assert all(result["bits_per_dim"] > 0 and result["draws"]["standard_error"] > 0 for result in results)
    strange = np.random.default_rng(0).integers(256, size=(1, 28, 28), dtype=np.uint8)
    content = io.BytesIO()
    np.save(content, strange)
    answer = client.post(
        "/v1/models/both/score", content=content.getvalue(), headers={"content-type": "application/x-npy"}
    ).raise_for_status()
    shares = {reason["feature"]: reason["share"] for reason in answer.json()["results"][0]["anomaly"]["reasons"]}
    assert sum(shares.values()) <= 1 + 1e-9
    version = Registry(settings.registry_dir).resolve("both")
    scorer = load_model(version.path, options=compiled(backbones=settings.backbones_dir))
    assert scorer.calibration.folds[0].statistic.kinds == ("whole", "local", "features")


def test_features_have_no_samples(client: TestClient) -> None:
    for query in ({}, {"inverse": "learned"}, {"format": "json"}):
        answer = client.get("/v1/models/parts/samples", params=query)
        assert (answer.status_code, answer.json()["type"]) == (422, "samples-unsupported")
    assert client.get("/v1/models/parts/card/samples").status_code == 404
    drawn = client.get("/v1/models/both/samples", params={"n": 2, "format": "json"}).raise_for_status().json()
    assert all(sample["kind"] == "density" and sample["bits_per_dim"] > 0 for sample in drawn["samples"])
    assert client.get("/v1/models/both/card/samples").status_code == 200


def test_what_models_are_a_density_of_is_listed(client: TestClient) -> None:
    page = ModelPage.model_validate(client.get("/v1/models").raise_for_status().json())
    listed = {model.name: (model.kind, model.test_bits_per_dim is None) for model in page.models}
    assert listed["parts"] == ("feature_density", True)
    assert listed["both"] == listed["mnist-snf-glow"] == ("density", False)
    for name in MODELS:
        detail = ModelDetail.model_validate(client.get(f"/v1/models/{name}").raise_for_status().json())
        assert detail.kind == listed[name][0]
        assert detail.serving is not None
        assert detail.serving.precision == "float32"


@pytest.mark.parametrize("model", MODELS)
def test_cards_audits_and_references(client: TestClient, model: str) -> None:
    card = client.get(f"/v1/models/{model}/card").raise_for_status().text
    assert ("bits/dim" in card) == (model == "both") or "no bits/dim" in card
    assert ("samples.png" in card) == (model == "both")
    assert "efficientnet-lite0" in card
    audit = client.get(f"/v1/models/{model}/audit", params={"n": 6}).raise_for_status().json()
    assert audit["agrees"]
    assert len(audit["images"]) == (6 if model == "both" else 4)
    assert client.get(f"/v1/models/{model}/reference").raise_for_status().json()["count"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_jobs_that_a_model_with_features_cannot_do(client: TestClient, model: str) -> None:
    calibration = {"type": "calibrate", "parameters": {"precision": "bfloat16"}}
    answer = client.post("/v1/jobs", json={"model": model, "dataset": "fashion-mnist-mini"} | calibration)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/body/parameters/precision"
