"""Audits over HTTP: the numbers of scores beside those that take nothing from a cache."""

from pathlib import Path

import httpx
import pytest

from tests.end_to_end.service import DIGITS, files, running

PATH = "/v1/models/{}/audit"


@pytest.mark.parametrize("model", ["digits", "cifar10-snf-glow"])
def test_scores_are_what_they_are_without_a_cache(house: httpx.Client, model: str) -> None:
    found = house.get(PATH.format(model), params={"n": 6}).raise_for_status().json()
    assert (found["model"], found["version"], found["precision"]) == (model, 1, "float32")
    assert found["agrees"] is True
    assert [one["index"] for one in found["images"]] == list(range(6))
    assert [one["source"] for one in found["images"]] == ["pinned"] * 4 + ["sample"] * 2
    assert 0 < max(abs(one["difference"]) for one in found["images"]) <= found["tolerance"]
    for one in [*found["images"], *found["log_dets"], found["total"]]:
        shown = one.get("log_likelihood", one.get("cached"))
        assert one["difference"] == pytest.approx(shown - one["recomputed"], abs=1e-12)

    model_view = house.get(f"/v1/models/{model}").json()
    stored = model_view["manifest"]
    assert {one["layer"]: one["cached"] for one in found["log_dets"]} == stored["log_dets"]["layers"]
    assert found["total"]["cached"] == model_view["serving"]["log_det_total"]
    assert found["engine"] == model_view["serving"]["engine"]
    assert abs(found["total"]["difference"]) < 1e-8
    assert found["images"][0]["recomputed"] == pytest.approx(stored["pinned"]["log_likelihood"], abs=0.01)
    assert found["seconds"] > 0


def test_what_is_asked_in_vain(house: httpx.Client) -> None:
    for n in (0, 17):
        answer = house.get(PATH.format("digits"), params={"n": n})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/n")
    assert house.get(PATH.format("nobody")).json()["type"] == "model-not-found"
    late = house.get(PATH.format("cifar10-snf-glow"), params={"n": 16}, headers={"X-Timeout-Ms": "50"})
    assert (late.status_code, late.json()["type"]) == (504, "deadline-exceeded")


def test_a_short_queue_takes_few(home: Path) -> None:
    with running("app.cli", "serve", home=home, queue_images=40) as client:
        answer = client.get(PATH.format("digits"), params={"n": 3})
        assert (answer.status_code, answer.json()["type"]) == (422, "invalid-request")
        assert "at most 2 images" in answer.json()["detail"]
        assert len(client.get(PATH.format("digits"), params={"n": 2}).json()["images"]) == 2
        assert client.post("/v1/models/digits/score", files=files(*DIGITS[:36])).status_code == 200
