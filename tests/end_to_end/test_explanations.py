"""Heat maps and verdicts with gradients over HTTP."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.registry.registry import Registry
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.trained import barely_trained

MODEL = "/v1/models/mnist-snf-glow"


@pytest.fixture(scope="module")
def client(house: httpx.Client, house_home: Path, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """The house with a model that knows no places beside those that do."""
    dense = barely_trained(tmp_path_factory, preset="snf-fc-2l")
    Registry(house_home / "registry").publish(dense, "dense", promote=True)
    return house


def scores(client: httpx.Client, path: str, *images: Path, **query: Any) -> list[dict[str, Any]]:
    answer = client.post(f"{path}/score", params=query, files=files(*images))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def channels_of(heat_map: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    arrays = np.load(io.BytesIO(base64.b64decode(heat_map["npy"])), allow_pickle=False)
    assert arrays.dtype == np.float64
    return dict(zip(heat_map["channels"], arrays, strict=True))


@pytest.mark.parametrize("path", ["/v1/models/digits", MODEL])
def test_heat_maps(client: httpx.Client, path: str) -> None:
    explained = scores(client, path, *DIGITS[:3], explain=True)
    plain = scores(client, path, *DIGITS[:3])
    for one, usual in zip(explained, plain, strict=True):
        heat_map = one.pop("heat_map")
        assert one == usual, "an explanation changes nothing that it explains"
        picture = Image.open(io.BytesIO(base64.b64decode(heat_map["png"])))
        picture.load()
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.size == (252, 252), "each pixel is a square of 9x9"
        assert heat_map["channels"] == ["nats", "z", "anomaly"]
        channels = channels_of(heat_map)
        assert {found.shape for found in channels.values()} == {(28, 28)}
        assert channels["nats"].sum() == pytest.approx(one["log_likelihood"], rel=1e-6)
        assert heat_map["lowest_z"] == channels["z"].min() < 0
        assert heat_map["highest_z"] == channels["z"].max() > 0


def test_heat_maps_with_gradients(client: httpx.Client) -> None:
    full, plain = (scores(client, MODEL, *DIGITS[:2], explain=True, **more)[1] for more in ({"detail": "full"}, {}))
    channels = channels_of(full["heat_map"])
    assert list(channels) == ["nats", "z", "anomaly", "gradients"]
    assert channels["gradients"].shape == (28, 28)
    assert (channels["gradients"] >= 0).all()
    assert channels["gradients"].any()
    for name, usual in channels_of(plain["heat_map"]).items():
        np.testing.assert_array_equal(channels[name], usual)
    assert full["heat_map"]["png"] == plain["heat_map"]["png"]


def test_the_map_is_that_of_the_first_draw(client: httpx.Client) -> None:
    (one,) = scores(client, MODEL, DIGITS[0], explain=True, draws=4)
    (first,) = scores(client, MODEL, DIGITS[0])
    assert channels_of(one["heat_map"])["nats"].sum() == pytest.approx(first["log_likelihood"], rel=1e-6)


def test_what_has_no_places_is_not_explained(client: httpx.Client) -> None:
    scores(client, "/v1/models/dense", DIGITS[0])
    refused = client.post("/v1/models/dense/score", params={"explain": True}, files=files(DIGITS[0]))
    assert (refused.status_code, refused.json()["type"]) == (422, "explain-unsupported")


def test_so_many_are_explained_at_once_and_no_more(client: httpx.Client) -> None:
    many = [DIGITS[0]] * 65
    refused = client.post(f"{MODEL}/score", params={"explain": True}, files=files(*many))
    assert (refused.status_code, refused.json()["type"]) == (413, "too-many-images")


def test_verdicts_with_gradients(client: httpx.Client) -> None:
    full, usual = (scores(client, MODEL, *DIGITS[:5], detail=detail) for detail in ("full", "basic"))
    assert {one["anomaly"]["smallest_p"] for one in usual} == {1 / 5001}
    assert {one["anomaly"]["smallest_p"] for one in full} == {1 / 2001}, "gradients are taken of fewer images"
    for thorough, one in zip(full, usual, strict=True):
        assert thorough["log_likelihood"] == one["log_likelihood"]
        assert thorough["anomaly"]["statistic"] != one["anomaly"]["statistic"]
        assert 1 / 2001 <= thorough["anomaly"]["p_value"] <= 1
    # In any company the same.
    (alone,) = scores(client, MODEL, DIGITS[3], detail="full")
    assert alone["anomaly"]["statistic"] == pytest.approx(full[3]["anomaly"]["statistic"], abs=1e-3)
    # A digit is no piece of clothing, and gradients say so, too.
    (strange,) = scores(client, "/v1/models/fashion-snf-glow", DIGITS[0], detail="full")
    assert strange["anomaly"]["is_anomaly"]


@pytest.mark.parametrize(("detail", "smallest"), [("basic", 1 / 5001), ("full", 1 / 2001)])
def test_each_kind_of_verdict_has_its_smallest_alpha(client: httpx.Client, detail: str, smallest: float) -> None:
    (one,) = scores(client, MODEL, DIGITS[0], detail=detail, alpha=smallest)
    assert one["anomaly"]["alpha"] == one["anomaly"]["smallest_p"] == smallest
    query: dict[str, str | float] = {"detail": detail, "alpha": 0.999 * smallest}
    refused = client.post(f"{MODEL}/score", params=query, files=files(DIGITS[0]))
    assert (refused.status_code, refused.json()["type"]) == (422, "alpha-unattainable")
