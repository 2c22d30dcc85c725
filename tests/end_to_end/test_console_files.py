"""The console's files over HTTP: nothing but them, kept from doing harm, sent only where they changed."""

import re

import httpx
import pytest

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"


def test_the_page_and_all_that_it_names_is_there(house: httpx.Client) -> None:
    page = house.get("/")
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:href|src)="(/console/[^"]+)"', page.text)
    assert any(one.endswith(".css") for one in named)
    for path in named:
        assert house.get(path).status_code == 200, path


def test_modules_that_import_each_other_are_there(house: httpx.Client) -> None:
    seen, todo = set(), [httpx.URL("/console/js/main.js")]
    while todo:
        url = todo.pop()
        answer = house.get(url)
        assert answer.status_code == 200, url
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        seen.add(url)
        found = re.findall(r"""(?:from|import\()\s*["'](\.[^"']+)["']""", answer.text)
        todo += [one for one in {url.join(path) for path in found} - seen if one not in todo]
    assert {f"/console/js/pages/{page}.js" for page in ("score", "samples", "train", "models")} <= {
        one.path for one in seen
    }


@pytest.mark.parametrize("path", ["/", "/console/js/main.js", "/console/examples/examples.json"])
def test_a_browser_is_told_to_trust_nothing_else(house: httpx.Client, path: str) -> None:
    headers = house.get(path).headers
    assert headers["content-security-policy"].startswith(POLICY)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"
    assert house.get(path, headers={"If-None-Match": headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["../service.py", "%2e%2e/service.py", "js/../../cli.py", "js/", "nothing.js"])
def test_only_the_consoles_files_are_sent(house: httpx.Client, path: str) -> None:
    answer = house.get(httpx.URL(str(house.base_url)).copy_with(raw_path=f"/console/{path}".encode()))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_example_is_an_image_of_its_shape(house: httpx.Client) -> None:
    for one in house.get("/console/examples/examples.json").json():
        model = {"[1, 28, 28]": "mnist-snf-glow", "[3, 32, 32]": "cifar10-snf-glow"}[str(one["shape"])]
        content = house.get(f"/console/examples/{one['file']}").content
        answer = house.post(f"/v1/models/{model}/score", content=content, headers={"Content-Type": "image/png"})
        assert answer.json()["results"][0]["preprocessing"]["resized"] is False
