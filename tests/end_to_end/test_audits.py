"""Audits over HTTP: the numbers of scores beside those that take nothing from a cache."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.end_to_end.support.service import serving
from tests.worker.support.helpers import until

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


def test_a_full_queue_refuses_an_audit(home: Path) -> None:
    """A short queue still lets an audit in, image by image, but not beside what fills it."""
    with (
        serving(home, shipped=False, queue_images=1000) as client,
        ThreadPoolExecutor() as pool,
    ):
        # The first audit loads the trained flow, which takes longer than a full queue lasts.
        assert client.get(PATH.format("digits"), params={"n": 1}).status_code == 200
        many = np.zeros((990, 28, 28), np.uint8)
        content, kind = io.BytesIO(), {"content-type": "application/x-npy"}
        np.save(content, many)
        score = f"{client.base_url}/v1/models/digits/score"
        busy = pool.submit(httpx.post, score, content=content.getvalue(), headers=kind, timeout=60, trust_env=False)
        until(lambda: float(re.findall(r"^snf_queue_images (.+)$", client.get("/metrics").text, re.M)[0]) > 900, 30, 0)
        answer = client.get(PATH.format("digits"), params={"n": 1})
        assert (answer.status_code, answer.json()["type"]) == (429, "queue-full")
        assert int(answer.headers["retry-after"]) >= 1
        assert busy.result().status_code == 200
        assert client.get(PATH.format("digits"), params={"n": 16}).json()["agrees"] is True
