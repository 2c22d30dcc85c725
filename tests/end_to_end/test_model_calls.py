"""What a service tells of a model over HTTP: its card, calibration images, samples, and the ways to train."""

import base64
import http.client
import io
import shutil
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from snf_models.pipeline.presets import PRESETS, find_preset
from snf_models.registry.registry import ZOO
from tests.end_to_end.support.service import files, score_one, serving
from tests.support.paths import DIGITS

PATH = "/v1/models/mnist-snf-glow/card"
CARD = ZOO / "mnist-snf-glow" / "1" / "card.md"


def test_the_card_as_it_lies_there_and_as_html(house: httpx.Client) -> None:
    plain = house.get(PATH)
    assert (plain.status_code, plain.headers["content-type"]) == (200, "text/markdown; charset=utf-8")
    assert plain.text == CARD.read_text()
    html = house.get(PATH, params={"format": "html"})
    assert (html.status_code, html.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for wanted in ("<h1>Model card</h1>", "<h2>Limits</h2>", "<table>", "<td>18236 steps"):
        assert wanted in html.text, html.text
    for unwanted in ("<html", "<img", "samples.png"):
        assert unwanted not in html.text
    picture = house.get(f"{PATH}/samples")
    assert (picture.headers["content-type"], picture.content) == (
        "image/png",
        CARD.with_name("samples.png").read_bytes(),
    )
    assert Image.open(io.BytesIO(picture.content)).size[0] > 28 * 8
    for answer in (plain, html, picture):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert house.get("/v1/models/digits/card").text.startswith("# Model card")


def raw(client: httpx.Client, path: str) -> tuple[int, str]:
    """Status and type of what a path is answered with as it stands; other clients would tidy it up."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        *("weights.safetensors", "manifest.json", "samples.png", "..", "../manifest.json", "..%2fmanifest.json"),
        *("%2e%2e/manifest.json", "samples/../manifest.json", "samples%00", "/etc/passwd", "%2fetc%2fpasswd"),
    ],
)
def test_no_other_file_is_read(house: httpx.Client, path: str) -> None:
    assert raw(house, f"{PATH}/{path}") == (404, "application/problem+json")


def test_a_changed_card_is_not_shown(home: Path) -> None:
    folder = home / "registry" / "digits" / "1"
    (folder / "card.md").write_text("# Another")
    (folder / "samples.png").unlink()
    (folder / "samples.png").symlink_to("/etc/hostname")
    with serving(home, shipped=False) as client:
        for call in ("card", "card/samples"):
            answer = client.get(f"/v1/models/digits/{call}")
            assert (answer.status_code, answer.json()["type"]) == (500, "damaged-artifact")
        shutil.copytree(ZOO / "mnist-snf-glow" / "1", home / "registry" / "bare" / "1")
        manifest = home / "registry" / "bare" / "1" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"card.md"', '"notes.md"'))
        answer = client.get("/v1/models/bare/card")
        assert (answer.status_code, answer.json()["type"]) == (404, "file-not-in-model"), answer.text


REFERENCE = "/v1/models/digits/reference"


def test_a_verdict_is_a_rank_in_the_histogram(house: httpx.Client) -> None:
    found = house.get(REFERENCE).raise_for_status().json()
    assert (found["model"], found["version"], found["calibration"]) == ("digits", 1, 0)
    assert (len(found["edges"]), len(found["counts"])) == (61, 60)
    assert sum(found["counts"]) == found["count"]
    assert found["edges"] == sorted(found["edges"])
    assert found["smallest_p"] == 1 / (found["count"] + 1)
    model = house.get("/v1/models/digits").json()
    assert found["count"] == model["calibration"]["calibration_images"]

    scored = house.post("/v1/models/digits/score", files=files(*DIGITS)).json()["results"]
    verdicts = [one["anomaly"] for one in scored]
    assert model["calibration"]["folds"] == 1
    for one in found["quantiles"]:
        assert one["alpha"] >= found["smallest_p"]
        for verdict in verdicts:
            assert (verdict["p_value"] <= one["alpha"]) == (verdict["statistic"] >= one["statistic"])
    # The images at least as strange are those of all bins above an edge.
    for index in (10, 30, 59):
        above = sum(found["counts"][index:])
        expected = (1 + above) / (found["count"] + 1)
        stranger = [one["p_value"] for one in verdicts if one["statistic"] >= found["edges"][index]]
        assert all(p <= expected for p in stranger)


def test_bins_are_those_asked_for(house: httpx.Client) -> None:
    assert len(house.get(REFERENCE, params={"bins": 200}).json()["counts"]) == 200
    for bins in (9, 201, "many"):
        answer = house.get(REFERENCE, params={"bins": bins})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/bins")


SAMPLES = "/v1/models/digits/samples"


@pytest.mark.parametrize("form", ["png", "npy", "zip", "json"])
def test_the_same_seed_gives_the_same_bytes(house: httpx.Client, form: str) -> None:
    first, again = (house.get(SAMPLES, params={"n": 3, "seed": 7, "format": form}) for _ in range(2))
    other = house.get(SAMPLES, params={"n": 3, "seed": 8, "format": form})
    assert first.status_code == 200
    assert first.headers["x-seed"] == "7"
    assert first.content == again.content
    assert first.content != other.content


def test_a_drawn_seed_is_returned_and_reproduces(house: httpx.Client) -> None:
    drawn = house.get(SAMPLES, params={"n": 2})
    seed = drawn.headers["x-seed"]
    assert house.get(SAMPLES, params={"n": 2, "seed": seed}).content == drawn.content
    assert house.get(SAMPLES, params={"n": 2}).headers["x-seed"] != seed


def test_formats_hold_the_same_images(house: httpx.Client) -> None:
    def get(form: str) -> bytes:
        return house.get(SAMPLES, params={"n": 4, "seed": 1, "format": form}).content

    array = np.load(io.BytesIO(get("npy")))
    assert (array.shape, array.dtype) == ((4, 28, 28), np.uint8)
    grid = np.asarray(Image.open(io.BytesIO(get("png"))))
    assert (grid[:28, :28] == array[0]).all()
    with zipfile.ZipFile(io.BytesIO(get("zip"))) as archive:
        for name, wanted in zip(sorted(archive.namelist()), array, strict=True):
            assert (np.asarray(Image.open(io.BytesIO(archive.read(name)))) == wanted).all()


def test_json_carries_the_likelihood_of_the_returned_image(house: httpx.Client) -> None:
    body = house.get(SAMPLES, params={"n": 2, "seed": 5, "format": "json"}).json()
    assert (body["model"], body["count"], body["seed"], body["inverse"]) == ("digits", 2, 5, "exact")
    for one in body["samples"]:
        again = score_one(house, "digits", base64.b64decode(one["png"]))
        assert again == pytest.approx(one["log_likelihood"], abs=1e-4)


def test_learned_inverse_and_temperature_are_heard(house: httpx.Client) -> None:
    answers = [
        house.get(SAMPLES, params={"n": 4, "seed": 3, "format": "npy", **extra})
        for extra in ({}, {"temperature": 0.5}, {"inverse": "learned"})
    ]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert answers[0].content != answers[1].content


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
