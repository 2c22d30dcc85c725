"""Scores over HTTP from a real service: exact, the same in any company, and honest about what fails."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from tests.end_to_end.support.service import files, score_one, serving
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

SAME = 1e-4


def pixels_of(path: Path) -> Any:
    return np.asarray(Image.open(path))


def test_one_image(house: httpx.Client) -> None:
    answer = house.post(
        "/v1/models/digits/score", content=DIGITS[0].read_bytes(), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["version"], body["count"]) == ("digits", 1, 1)
    one = body["results"][0]
    assert (one["index"], one["filename"], one["status"], one["kind"]) == (0, None, "ok", "density")
    assert one["bits_per_dim"] == pytest.approx(-one["log_likelihood"] / (784 * np.log(2)), rel=1e-9)
    assert one["terms"][0]["scale"] == 0
    total = sum(term["log_prior"] + term["log_det"] for term in one["terms"])
    assert total == pytest.approx(one["log_likelihood"], rel=1e-6)
    anomaly = one["anomaly"]
    assert anomaly["is_anomaly"] == (anomaly["p_value"] <= anomaly["alpha"])
    note = {"resized": False, "converted": None, "size": [28, 28], "warning": None}
    assert one["preprocessing"] == {"id": one["preprocessing"]["id"], **note}
    assert "draws" not in one
    assert "fdr" not in body


def test_what_http_answers_is_what_the_scorer_says(house: httpx.Client, artifact: Path) -> None:
    scorer = load_model(artifact)
    stack = np.stack([pixels_of(path)[None] for path in DIGITS])
    wanted = [one.log_likelihood for one in scorer.score(stack)]
    answer = house.post("/v1/models/digits/score", files=files(*DIGITS)).json()
    got = [one["log_likelihood"] for one in answer["results"]]
    assert np.abs(np.array(got) - wanted).max() <= SAME
    assert [one["filename"] for one in answer["results"]] == [path.name for path in DIGITS]


def test_alone_in_a_batch_and_after_a_restart(home: Path) -> None:
    image = DIGITS[6]
    company = [*DIGITS, *DIGITS][:64]
    assert company[6] == image
    with serving(home, shipped=False) as client:
        alone = score_one(client, "digits", image.read_bytes())
        batch = client.post("/v1/models/digits/score", files=files(*company)).json()
        assert batch["count"] == 64
        seventh = batch["results"][6]["log_likelihood"]
    with serving(home, shipped=False) as client:
        restarted = score_one(client, "digits", image.read_bytes())
    assert seventh == pytest.approx(alone, abs=SAME)
    assert restarted == pytest.approx(alone, abs=SAME)


def test_one_bad_file_does_not_fail_the_others(house: httpx.Client) -> None:
    form = [*files(DIGITS[0]), ("images", ("notes.txt", b"not an image", "text/plain")), *files(DIGITS[1])]
    answer = house.post("/v1/models/digits/score", params={"fdr": True}, files=form)
    assert answer.status_code == 200
    body = answer.json()
    assert [one["status"] for one in body["results"]] == ["ok", "error", "ok"]
    error = body["results"][1]["error"]
    assert (error["type"], error["status"]) == ("undecodable-image", 422)
    q = body["fdr"]["q_values"]
    assert q[1] is None
    p = [one["anomaly"]["p_value"] for one in body["results"] if one["status"] == "ok"]
    assert [value for value in q if value is not None] >= p


def test_draws_average_and_the_first_one_is_the_default_answer(house: httpx.Client) -> None:
    data = DIGITS[3].read_bytes()
    headers = {"content-type": "image/png"}
    query: dict[str, str | int] = {"draws": 8}
    one = house.post("/v1/models/digits/score", params=query, content=data, headers=headers).json()["results"][0]
    assert one["draws"]["k"] == 8
    assert one["draws"]["mean"] == pytest.approx(one["log_likelihood"])
    assert one["draws"]["iw_bound"] >= one["draws"]["mean"]
    assert sum(term["log_prior"] + term["log_det"] for term in one["terms"]) == pytest.approx(one["log_likelihood"])
    first = house.post("/v1/models/digits/score", params={"draws": 1}, content=data, headers=headers).json()
    assert first["results"][0]["log_likelihood"] == pytest.approx(score_one(house, "digits", data), abs=SAME)


def test_a_model_that_appears_is_served_and_a_moved_alias_followed(home: Path, artifact: Path) -> None:
    registry = Registry(home / "registry")
    with serving(home, shipped=False) as client:
        data = DIGITS[0].read_bytes()
        score_one(client, "digits", data)
        registry.publish(artifact, "newcomer")
        score_one(client, "newcomer", data)
        registry.publish(artifact, "digits", promote=True)

        def answered() -> int:
            answer = client.post("/v1/models/digits/score", content=data, headers={"content-type": "image/png"})
            assert answer.status_code == 200, "the former version serves until the next one is loaded"
            return int(answer.json()["version"])

        until(lambda: answered() == 2)


def test_a_model_trained_again_in_the_place_of_another_is_served(home: Path, other_artifact: Path) -> None:
    registry = Registry(home / "registry")
    data = DIGITS[0].read_bytes()
    with serving(home, shipped=False) as client:
        first = score_one(client, "digits", data)
        (home / "registry" / "digits").rename(home / "away")
        until(lambda: client.get("/v1/models/digits").status_code == 404)
        until(lambda: client.post("/v1/models/digits/score", files=files(DIGITS[0])).status_code == 404)
        registry.publish(other_artifact, "digits")
        assert score_one(client, "digits", data) != pytest.approx(first, abs=SAME)
        # And in one move, while it is in use.
        (home / "registry" / "digits").rename(home / "away-too")
        (home / "away").rename(home / "registry" / "digits")
        until(lambda: score_one(client, "digits", data) == pytest.approx(first, abs=SAME))


def test_a_damaged_model_fails_alone(home: Path, artifact: Path) -> None:
    registry = Registry(home / "registry")
    weights = registry.publish(artifact, "damaged").path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (registry.publish(artifact, "unreadable").path / "manifest.json").write_text("{}")
    with serving(home, shipped=False) as client:
        answer = client.post("/v1/models/damaged/score", files=files(DIGITS[0]))
        assert answer.status_code == 500
        assert answer.json()["type"] == "damaged-artifact"
        score_one(client, "digits", DIGITS[0].read_bytes())
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert set(ready.json()["failed"]) == {"damaged:1", "unreadable"}
        assert ready.json()["jobs"] == "degraded"
        states = {one["name"]: one for one in client.get("/v1/models").json()["models"]}
        assert states.keys() == {"digits", "damaged", "unreadable"}, "none is shipped here"
        assert states["digits"]["state"] == "ready"
        for name in ("damaged", "unreadable"):
            assert states[name]["state"] == "failed"
            assert states[name]["reason"]
