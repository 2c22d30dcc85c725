"""Model cards over HTTP: the card and its picture, and no other file."""

import http.client
import io
import shutil
from pathlib import Path

import httpx
import pytest
from PIL import Image

from snf_models.registry.registry import ZOO
from tests.end_to_end.support.service import serving

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
