"""Heat maps and the smallest alpha over HTTP."""

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

from snf_models.registry.registry import Registry
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


def test_verdicts_have_their_smallest_alpha(client: httpx.Client) -> None:
    smallest = 1 / 5001
    (one,) = scores(client, MODEL, DIGITS[0], alpha=smallest)
    assert one["anomaly"]["alpha"] == one["anomaly"]["smallest_p"] == smallest
    refused = client.post(f"{MODEL}/score", params={"alpha": 0.999 * smallest}, files=files(DIGITS[0]))
    assert (refused.status_code, refused.json()["type"]) == (422, "alpha-unattainable")
