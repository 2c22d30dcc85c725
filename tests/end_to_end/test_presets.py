"""The ways to train over HTTP: what is listed is what a job takes."""

import httpx

from snf_models.pipeline.presets import PRESETS, find_preset


def test_what_is_listed_is_what_a_job_takes(house: httpx.Client) -> None:
    found = house.get("/v1/presets").raise_for_status().json()
    presets = {one["name"]: one for one in found["presets"]}
    assert list(presets) == list(PRESETS)
    assert found["default"] in presets
    assert presets["snf-glow-tiny"] == {
        "name": "snf-glow-tiny",
        "purpose": "tests, seconds",
        "family": "glow",
        "linear": "self-normalizing",
        "parameters": {},
        "accepts": [
            name for name in found["parameters"]["properties"] if name in find_preset("snf-glow-tiny").parameters
        ],
    }
    assert "backbone" in presets["snf-features"]["accepts"]
    assert "backbone" not in presets["snf-glow-tiny"]["accepts"]
    # The published settings, of which the multiplier of 100 is the default here too.
    paper = presets["snf-glow-2l-16k"]["parameters"]
    assert (paper["pixel_transform"], paper["warmup_steps"], paper["ema_decay"]) == ("logit", 5000, 0.0)
    assert "reconstruction_weight" not in paper
    assert presets["snf-glow-3l-32k"]["parameters"]["reconstruction_weight"] == 1000.0

    schema = found["parameters"]
    assert schema["additionalProperties"] is False
    usual = {name: one["default"] for name, one in schema["properties"].items()}
    assert usual["max_steps"] == 2000
    assert all(one["description"] for one in schema["properties"].values())
    job = {"type": "train", "dataset": "mnist-mini", "model": "mine"}
    for name in ("snf-glow-tiny", "snf-conv-9l", "exact-fc-2l"):
        own = presets[name]["parameters"]
        assert own.keys() <= usual.keys()
        defaults = {key: value for key, value in usual.items() if key in presets[name]["accepts"]}
        asked = house.post("/v1/jobs/estimate", json=job | {"preset": name, "parameters": defaults | own})
        assert asked.status_code == 200, asked.text
        assert asked.json() == house.post("/v1/jobs/estimate", json=job | {"preset": name}).json()
    limit = schema["properties"]["batch_size"]["maximum"]
    refused = house.post("/v1/jobs/estimate", json=job | {"parameters": {"batch_size": limit + 1}})
    assert refused.status_code == 422
