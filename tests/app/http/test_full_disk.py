"""Calls that write on a disk that takes no writes: each is a problem with a sentence, and nothing has changed."""

import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from snf_models.registry.registry import Registry
from tests.end_to_end.support.uploads import GOOD
from tests.support.disks import MIB, Disk, refuse_writes
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

MODEL = "/v1/models/digits"
TAR = {"content-type": "application/x-tar"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    artifact = barely_trained(tmp_path_factory)
    for _ in range(2):
        Registry(home / "registry").publish(artifact, "digits", promote=True)
    Registry(home / "registry").set_alias("digits", "champion", 1)
    return home


@pytest.fixture(scope="module")
def client(home: Path, no_shipped_models: None) -> Iterator[TestClient]:
    with client_of(service_settings(home), raise_server_exceptions=False) as made:
        yield made


CALLS = {
    "move an alias": ("PUT", f"{MODEL}/aliases/champion", {"json": {"version": 2}}),
    "promote": ("PUT", f"{MODEL}/aliases/live", {"json": {"version": 1}}),
    "remove an alias": ("DELETE", f"{MODEL}/aliases/champion", {}),
    "choose a calibration": ("PUT", f"{MODEL}:1/calibrations/active", {"json": {"calibration": 0}}),
    "upload a dataset": ("POST", "/v1/datasets", {"data": {"name": "lots"}, "files": [("file", GOOD)]}),
}


def aliases(client: TestClient) -> dict[str, int]:
    (model,) = client.get("/v1/models").json()["models"]
    found: dict[str, int] = model["aliases"]
    return found


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("number", "slug"),
    [(errno.ENOSPC, "storage-full"), (errno.EDQUOT, "storage-full"), (errno.EROFS, "storage-read-only")],
    ids=["full", "quota", "read-only"],
)
def test_each_call_says_so(
    call: str, number: int, slug: str, client: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, path, body = CALLS[call]
    before = aliases(client)
    refuse_writes(monkeypatch, number)
    answer = client.request(method, path, **body)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (507, slug), answer.text
    assert problem["detail"].startswith(("the disk is full: ", "the data folder cannot be written: "))
    assert str(home) not in answer.text
    assert aliases(client) == before
    assert [one["name"] for one in client.get("/v1/datasets").json()["datasets"] if one["name"] == "lots"] == []


@pytest.mark.parametrize("call", ["upload a dataset", "upload a model", "submit a job"])
def test_large_writes_are_refused_while_little_is_left(
    call: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = client.get(f"{MODEL}:1/artifact").content
    calls = CALLS | {
        "upload a model": ("POST", "/v1/models?name=digits", {"content": archive, "headers": TAR}),
        "submit a job": ("POST", "/v1/jobs", {"json": {"type": "train", "dataset": "mnist-mini", "model": "new"}}),
    }
    method, path, body = calls[call]
    Disk(monkeypatch, total=64 * MIB, free=16 * MIB)
    answer = client.request(method, path, **body)
    assert (answer.status_code, answer.json()["type"]) == (507, "storage-full"), answer.text
    assert "may be used: its last part is kept for job records, aliases and keys" in answer.json()["detail"]
    assert client.put(f"{MODEL}/aliases/champion", json={"version": 1}).status_code == 200, "small writes go on"


def test_other_errors_of_the_system_are_faults(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_writes(monkeypatch, errno.EIO)
    answer = client.put(f"{MODEL}/aliases/champion", json={"version": 2})
    assert (answer.status_code, answer.json()["type"]) == (500, "internal-error")


def test_files_of_a_form_that_is_scored_are_never_on_the_disk(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled: list[object] = []
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", spooled.append)
    answer = client.post(f"{MODEL}/score", files=[("images", ("a", bytes(3 * 2**20)))])
    assert (answer.status_code, spooled) == (422, [])
