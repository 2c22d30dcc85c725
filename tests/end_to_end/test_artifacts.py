"""Models out of one service and into another: the same scores; and nothing of a bad one, whatever is in it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from snf_models.artifacts.files import NAMES, pack
from snf_models.registry.registry import Registry
from tests.end_to_end.support.service import MNIST, MODEL, score_one, serving
from tests.end_to_end.support.uploads import half_a_post, left
from tests.models.artifacts.spoilt_models import (
    a_file_outside,
    an_enormous_architecture,
    other_weights,
)
from tests.models.helpers import edit_manifest
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

TAR = {"content-type": "application/x-tar"}
LARGEST = 5 * 2**20


@pytest.fixture(scope="module")
def client(module_home: Path) -> Iterator[httpx.Client]:
    with serving(module_home, shipped=MNIST, max_model_bytes=LARGEST) as client:
        yield client


def bring(client: httpx.Client, data: bytes, name: str, **query: Any) -> httpx.Response:
    return client.post("/v1/models", params={"name": name, **query}, content=data, headers=TAR)


def names(client: httpx.Client) -> list[str]:
    return [one["name"] for one in client.get("/v1/models").json()["models"]]


def test_a_model_goes_out_and_in_and_scores_the_same(
    client: httpx.Client, module_home: Path, artifact: Path, tmp_path: Path
) -> None:
    """The name ``lock`` is also that of a file beside the upload."""
    exported = client.get(f"/v1/models/{MODEL}/artifact")
    assert (exported.status_code, exported.headers["content-type"]) == (200, "application/x-tar")
    assert exported.headers["content-disposition"] == f'attachment; filename="{MODEL}-1.tar"'
    assert int(exported.headers["content-length"]) == len(exported.content)
    assert client.get(f"/v1/models/{MODEL}:1/artifact").content == exported.content

    brought = bring(client, exported.content, "lock")
    assert brought.status_code == 201, brought.text
    assert brought.headers["location"] == "/v1/models/lock:1"
    body = brought.json()
    assert (body["name"], body["version"], body["read_only"]) == ("lock", 1, False)
    assert body["manifest"] == client.get(f"/v1/models/{MODEL}").json()["manifest"]
    image = DIGITS[0].read_bytes()
    assert score_one(client, "lock", image) == score_one(client, MODEL, image)
    assert client.get("/v1/models/lock/artifact").content == exported.content
    assert left(module_home) == []

    job = "06f8m2q1x3z4c5v6b7n8m9k0j1"
    folder = Path(shutil.copytree(artifact, tmp_path / "made-by-a-job"))
    edit_manifest(folder, lambda document: document["training"].update(job=job))
    data = b"".join(pack(folder))
    for version, query in ((2, {}), (3, {"promote": True})):
        again = bring(client, data, "lock", **query)
        assert (again.status_code, again.headers["location"]) == (201, f"/v1/models/lock:{version}")
        assert again.json()["manifest"]["training"]["job"] is None
    assert Registry(module_home / "registry").of_job("lock", job) is None
    assert {path.name for path in (module_home / "registry" / "lock" / "2").iterdir()} == set(NAMES)
    assert score_one(client, "lock:2", image) == score_one(client, MODEL, image)
    listed = next(one for one in client.get("/v1/models").json()["models"] if one["name"] == "lock")
    assert (listed["versions"], listed["aliases"]) == ([1, 2, 3], {"live": 3})
    assert client.get("/v1/models/nobody/artifact").json()["type"] == "model-not-found"


def test_a_shipped_model_fits(module_home: Path, client: httpx.Client) -> None:
    data = client.get("/v1/models/mnist-snf-glow/artifact").content
    assert bring(client, data, "mnist-snf-glow").headers["location"] == "/v1/models/mnist-snf-glow:2"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_weights, "spoilt/upload/weights.safetensors does not have the SHA-256"),
        (an_enormous_architecture, "the architecture cannot be built: level 8: expected at most 1073741824 parameters"),
        (a_file_outside, "the manifest lists ../../../../etc/passwd"),
    ],
)
def test_nothing_is_left_of_a_bad_one(
    client: httpx.Client,
    module_home: Path,
    artifact: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    says: str,
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "spoilt"))
    spoil(folder)
    answer = bring(client, b"".join(pack(folder)), "spoilt")
    assert (answer.status_code, answer.json()["type"]) == (422, "model-refused"), answer.text
    assert says in answer.json()["detail"]
    assert str(module_home) not in answer.text
    assert "spoilt" not in names(client)
    assert not (module_home / "registry" / "spoilt").exists()
    assert left(module_home) == []
    score_one(client, MODEL, DIGITS[0].read_bytes())


def test_what_is_no_upload_of_a_model(client: httpx.Client, module_home: Path, artifact: Path) -> None:
    data = b"".join(pack(artifact))
    for answer, status, slug in (
        (bring(client, data, "Bad"), 422, "invalid-request"),
        (bring(client, data, ".."), 422, "invalid-request"),
        (bring(client, data, "spoilt", version=3), 422, "invalid-request"),
        (client.post("/v1/models", content=data, headers=TAR), 422, "invalid-request"),
        (client.post("/v1/models?name=spoilt", content=data), 415, "unsupported-media-type"),
        (bring(client, b"", "spoilt"), 422, "model-refused"),
        (bring(client, data[:-20_000], "spoilt"), 422, "model-refused"),
        (bring(client, bytes(LARGEST + 1), "spoilt"), 413, "content-too-large"),
        (client.post("/v1/models?name=spoilt", content=iter([data] * 8), headers=TAR), 422, "model-refused"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (status, slug), answer.text
    with half_a_post(client, "/v1/models?name=spoilt", data, TAR["content-type"]):
        until(lambda: left(module_home), 30)
    until(lambda: not left(module_home), 30)
    assert "spoilt" not in names(client)
