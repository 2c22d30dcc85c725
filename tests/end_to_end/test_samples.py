"""Samples over HTTP: the same seed gives the same bytes, in four formats."""

import base64
import io
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.support.service import score_one

PATH = "/v1/models/digits/samples"


@pytest.mark.parametrize("form", ["png", "npy", "zip", "json"])
def test_the_same_seed_gives_the_same_bytes(house: httpx.Client, form: str) -> None:
    first, again = (house.get(PATH, params={"n": 3, "seed": 7, "format": form}) for _ in range(2))
    other = house.get(PATH, params={"n": 3, "seed": 8, "format": form})
    assert first.status_code == 200
    assert first.headers["x-seed"] == "7"
    assert first.content == again.content
    assert first.content != other.content


def test_a_drawn_seed_is_returned_and_reproduces(house: httpx.Client) -> None:
    drawn = house.get(PATH, params={"n": 2})
    seed = drawn.headers["x-seed"]
    assert house.get(PATH, params={"n": 2, "seed": seed}).content == drawn.content
    assert house.get(PATH, params={"n": 2}).headers["x-seed"] != seed


def test_formats_hold_the_same_images(house: httpx.Client) -> None:
    def get(form: str) -> bytes:
        return house.get(PATH, params={"n": 4, "seed": 1, "format": form}).content

    array = np.load(io.BytesIO(get("npy")))
    assert (array.shape, array.dtype) == ((4, 28, 28), np.uint8)
    grid = np.asarray(Image.open(io.BytesIO(get("png"))))
    assert (grid[:28, :28] == array[0]).all()
    with zipfile.ZipFile(io.BytesIO(get("zip"))) as archive:
        for name, wanted in zip(sorted(archive.namelist()), array, strict=True):
            assert (np.asarray(Image.open(io.BytesIO(archive.read(name)))) == wanted).all()


def test_json_carries_the_likelihood_of_the_returned_image(house: httpx.Client) -> None:
    body = house.get(PATH, params={"n": 2, "seed": 5, "format": "json"}).json()
    assert (body["model"], body["count"], body["seed"], body["inverse"]) == ("digits", 2, 5, "exact")
    for one in body["samples"]:
        again = score_one(house, "digits", base64.b64decode(one["png"]))
        assert again == pytest.approx(one["log_likelihood"], abs=1e-4)


def test_learned_inverse_and_temperature_are_heard(house: httpx.Client) -> None:
    answers = [
        house.get(PATH, params={"n": 4, "seed": 3, "format": "npy", **extra})
        for extra in ({}, {"temperature": 0.5}, {"inverse": "learned"})
    ]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert answers[0].content != answers[1].content
