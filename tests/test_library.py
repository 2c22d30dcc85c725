"""The examples of docs/library.md run, and what they promise holds."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from torch.distributions import Distribution, MultivariateNormal

from snf_models.bijections.pixels import LogitPixels
from snf_models.features.backbones import BackboneStore
from snf_models.features.flows import freeze_features
from snf_models.flows import layers
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow, Level
from snf_models.flows.layers import layer_types
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.pipeline.presets import PRESETS
from snf_models.scoring.frozen import freeze
from snf_models.scoring.torch_engine import TorchFeatureEngine
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.likelihood import score_images
from tests.support.paths import ROOT

JSON_BLOCK = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FEWER_STEPS = ("for batch in points.split(200) * 20:", "for batch in points.split(200) * 5:")
"""A loop of the page, and what is run in its place: what is asked of the flow over vectors holds then, too."""


@pytest.fixture(scope="module")
def page(backbones: Path) -> Any:
    """The names that the page's examples define, run one after the other."""
    names: dict[str, Any] = {"__name__": "library_page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(BackboneStore.__init__, "__defaults__", (backbones,))
        patch.setattr("snf_models.pipeline.presets.PRESETS", dict(PRESETS))
        patch.setattr(layers, "_types", dict(layers._types))
        text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
        assert FEWER_STEPS[0] in text
        for block in BLOCKS.findall(text.replace(*FEWER_STEPS)):
            exec(compile(block, "docs/library.md", "exec", dont_inherit=True), names)
    return names


def test_the_example_of_a_detection_limit_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [block] = BLOCKS.findall((ROOT / "docs" / "limits.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "limits_page"}
    exec(compile(block, "docs/limits.md", "exec", dont_inherit=True), names)
    assert (names["record"].images, names["record"].curves[0].label) == (40, "spot, 128 grey levels")


def test_scores_and_samples(page: dict[str, Any]) -> None:
    assert page["judged"].verdict.is_anomaly == (page["judged"].verdict.p_value <= 0.01)
    assert (page["samples"].shape, page["samples"].dtype) == ((4, 1, 28, 28), np.uint8)


def test_a_flow_is_a_distribution(page: dict[str, Any]) -> None:
    density, points = page["density"], page["points"]
    assert isinstance(density, Distribution)
    gaussian = MultivariateNormal(points.mean(0), points.T.cov())
    with torch.no_grad():
        assert float(density.log_prob(points).mean()) > float(gaussian.log_prob(points).mean()) + 0.5
    assert (page["moons"].shape, page["lower"].shape, page["drawn"].shape) == ((500, 2), (500, 2), (4, 1, 28, 28))
    assert page["at_points"].tolist() == pytest.approx(page["log_likelihoods"], abs=2e-3)
    assert float((page["found"] == page["crescent"]).double().mean()) > 0.95
    assert float(page["lower"][:, 1].mean()) == pytest.approx(
        float(points[page["crescent"] == 1][:, 1].mean()), abs=0.2
    )


def test_a_conditional_flow_finds_the_class(page: dict[str, Any]) -> None:
    points, crescent = page["points"], page["crescent"]
    assert (page["of_both"].shape, page["upper"].shape) == ((2000, 2), (500, 2))
    assert float((page["of_both"].argmax(1) == crescent).double().mean()) > 0.95
    assert float(page["upper"][:, 1].mean()) == pytest.approx(float(points[crescent == 0][:, 1].mean()), abs=0.2)


def test_a_trained_flow_is_exact(page: dict[str, Any]) -> None:
    assert float(page["error"]) < 0.05
    exact = freeze(page["flow"], (1, 28, 28))
    assert exact.image_shape == (1, 28, 28)
    assert torch.isfinite(page["output"].log_likelihood).all()


def test_a_fitted_flow_over_features_gives_the_log_likelihood_of_its_model(page: dict[str, Any]) -> None:
    frozen, architecture = freeze_features(page["fitted"].flows), page["features"]
    engine = TorchFeatureEngine(page["extractor"], frozen)
    density = FeatureDensity(engine, frozen, "0" * 64, architecture.image_shape, architecture.input_size)
    scores = [score.log_likelihood for score in score_images(density, page["images"])]
    assert page["log_density"].tolist() == pytest.approx(scores, rel=1e-5)
    back, _ = page["layer"].inverse(page["latents"])
    assert torch.allclose(back, torch.from_numpy(page["at_places"]), atol=1e-3)


def test_an_own_bijection_works_in_a_flow(page: dict[str, Any]) -> None:
    flow = Flow(LogitPixels(), [Level([page["ReverseChannels"]()])]).eval()
    output = flow(page["x"])
    assert torch.allclose(flow.inverse(output.latents), page["x"], atol=0.01)
    assert freeze(flow, (1, 28, 28)).image_shape == (1, 28, 28)
    assert page["checks"] == 16


def test_a_flow_built_by_hand_is_registered(page: dict[str, Any]) -> None:
    architecture = page["by_hand_scorer"].manifest.architecture
    assert architecture == page["described"]
    assert [layer.type for _, layer in architecture.levels[1].layers()][1] == "reverse-channels"
    assert (page["version"].name, page["version"].version) == ("by-hand", 1)


def test_the_file_of_the_page_on_architectures_is_one() -> None:
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    recipe = parse_architecture(json.loads(JSON_BLOCK.findall(text)[0]))
    config = recipe.config({})
    flow = build_flow(recipe.architecture_for((1, 28, 28), config))
    assert (len(flow.level_list()[0].steps), config.multiplier) == (13, "geco")
    own = [kind.type_name() for kind in layer_types() if kind.__module__.startswith("snf_models.")]
    assert [name for name in own if f"`{name}`" not in text] == []


def test_an_own_preset_and_engine(page: dict[str, Any]) -> None:
    assert page["architecture"].steps == 4
    assert page["engine"].name == "torch"
    assert "snf-glow-wide" not in PRESETS


def test_an_own_call_is_described(page: dict[str, Any]) -> None:
    assert page["app"].openapi()["paths"]["/v1/greetings"]["get"]["operationId"] == "get_greeting"
    client = TestClient(page["app"])
    assert client.get("/v1/greetings").json() == {"text": "hello"}
    refused = client.get("/v1/greetings", params={"name": "Ada"})
    assert (refused.status_code, refused.json()["type"]) == (422, "invalid-request"), refused.text
