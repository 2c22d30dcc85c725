"""The models in the box, served: what they answer, and that it is the density of their unfrozen flows in float64."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from snf_client.schemas.base import examples_of
from snf_client.schemas.scores import Scores
from snf_models.loading.trained import load_artifact
from snf_models.registry.registry import ZOO, Registry
from snf_runtime.scoring.pixel_density import content_noise
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS, ROOT

GREY = ("fashion-snf-glow", "mnist-snf-glow")
SHIPPED = ("cifar10-snf-glow", *GREY)


def test_the_box_holds_three_models_with_their_cards(house: httpx.Client) -> None:
    listed = {one["name"]: one for one in house.get("/v1/models").json()["models"]}
    assert {path.name for path in ZOO.iterdir() if (path / "1").is_dir()} == set(SHIPPED)
    for name in SHIPPED:
        assert listed[name]["state"] == "ready"
        assert listed[name]["read_only"] is True
        assert listed[name]["size_bytes"] <= 12 * 2**20
        manifest = house.get(f"/v1/models/{name}").json()["manifest"]
        card = (ZOO / name / "1" / "card.md").read_text()
        assert f"{manifest['evaluation']['test_bits_per_dim']:.4f} bits/dim" in card
        assert f"models/snf_models/zoo/{name}/1/card.md" in (ROOT / "README.md").read_text()


def test_the_documented_answer_is_a_real_one(house: httpx.Client) -> None:
    example = examples_of(Scores)[0]
    digit = next(path for path in DIGITS if path.name == example["results"][0]["filename"])
    answer = house.post("/v1/models/mnist-snf-glow/score", files=files(digit)).json()
    got, documented = answer["results"][0], example["results"][0]
    assert got["log_likelihood"] == pytest.approx(documented["log_likelihood"], abs=1e-3)
    assert got["anomaly"]["p_value"] == pytest.approx(documented["anomaly"]["p_value"], abs=1e-3)
    assert got["anomaly"]["statistic"] == pytest.approx(documented["anomaly"]["statistic"], abs=1e-2)
    for reason, shown in zip(got["anomaly"]["reasons"], documented["anomaly"]["reasons"], strict=True):
        assert reason == shown | {name: pytest.approx(shown[name], abs=1e-2) for name in ("z", "share")}
    assert got.keys() == documented.keys()
    assert got["anomaly"].keys() == documented["anomaly"].keys()
    assert got["preprocessing"] == documented["preprocessing"]
    examples = house.get("/openapi.json").json()["components"]["schemas"]["Scores"]["examples"]
    assert examples[0]["results"][0]["terms"] == documented["terms"]


@pytest.mark.parametrize("name", SHIPPED)
def test_scores_are_the_density_of_the_unfrozen_flow(house: httpx.Client, name: str) -> None:
    artifact = load_artifact(Registry(ROOT / "nowhere").resolve(f"{name}:1").path)
    flow, digest = artifact.flow.double(), artifact.manifest.log_dets.weights_sha256
    images = np.stack([np.asarray(Image.open(path))[None] for path in DIGITS[:20]])
    if name not in GREY:
        images = artifact.pinned
    body = io.BytesIO()
    np.save(body, images.transpose(0, 2, 3, 1))
    headers = {"content-type": "application/x-npy"}
    answer = house.post(f"/v1/models/{name}/score", content=body.getvalue(), headers=headers).json()
    for image, one in zip(images, answer["results"], strict=True):
        with torch.no_grad():
            expected = float(flow(torch.from_numpy(image + content_noise(image, digest))).log_likelihood)
        assert one["log_likelihood"] == pytest.approx(expected, abs=1e-3 if name in GREY else 1e-5 * image.size)


def test_digits_are_strange_to_clothes_and_not_to_digits(house: httpx.Client) -> None:
    answers = {
        name: house.post(f"/v1/models/{name}/score?alpha=0.05", files=files(*DIGITS)).json()["results"] for name in GREY
    }
    flagged = {name: np.mean([one["anomaly"]["is_anomaly"] for one in found]) for name, found in answers.items()}
    assert flagged["fashion-snf-glow"] > 0.2
    assert flagged["mnist-snf-glow"] < 0.2


def test_samples_by_both_inverses(house: httpx.Client) -> None:
    for inverse in ("exact", "learned"):
        answer = house.get(f"/v1/models/mnist-snf-glow/samples?n=4&seed=3&inverse={inverse}&format=json").json()
        values = [one["bits_per_dim"] for one in answer["samples"]]
        assert all(0.3 < value < 3 for value in values)
