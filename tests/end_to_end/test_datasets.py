"""Images of one's own over HTTP: uploaded, looked at, trained on, deleted; and what is refused leaves nothing."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.support.service import serving, snf
from tests.end_to_end.support.uploads import BOUNDARY, FORM, GOOD, left, upload
from tests.models.datasets.upload_files import (
    DIGITS,
    mixed,
    npz,
    pngs,
    tar_member,
    tarred,
    zip_link,
    zipped,
)
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[httpx.Client]:
    with serving(home, shipped=False) as client:
        yield client


KINDS: dict[str, list[tuple[str, bytes]]] = {
    "zip": [("cells.zip", zipped(pngs(60, 6)))],
    "tar.gz": [("cells.tar.gz", tarred(pngs(60, 6), "gz"))],
    "npz": [("cells.npz", npz(images=DIGITS[:60, 0], group=np.arange(60) % 6))],
    "files": list(pngs(60, 6).items()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_upload_becomes_the_same_dataset(service: httpx.Client, home: Path, kind: str) -> None:
    name = f"cells-{kind}"
    answer = upload(service, name, *KINDS[kind])
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/datasets/{name}"
    found = answer.json()
    assert service.get(f"/v1/datasets/{name}").json() == found
    assert (found["images"], found["image_shape"], found["origin"]) == (60, [1, 28, 28], "stored")
    assert [found[part] for part in ("train", "statistics", "calibration", "folds")] == [40, 20, 0, 5]
    assert found["report"]["different_groups"] == 6
    sheet = service.get(found["links"]["contact_sheet"])
    assert sheet.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(sheet.content)).size[0] > 500
    listed = {one["name"]: one for one in service.get("/v1/datasets").json()["datasets"]}
    assert listed[name] == {key: value for key, value in found.items() if key not in ("report", "reference", "links")}
    assert listed["mnist-mini"]["images"] == 600
    taken = upload(service, name, ("again.zip", zipped(pngs(20))))
    assert (taken.status_code, taken.json()["type"]) == (409, "dataset-taken")
    assert left(home) == []


def test_what_is_left_out_is_named(service: httpx.Client) -> None:
    more = {
        "lot0/notes": b"not an image",
        "lot0/notes.txt": b"text",
        "lot0/again.png": pngs(1)["lot0/000.png"],
        ".DS_Store": b"x",
    }
    # The name may come last.
    form = [("file", ("cells.zip", zipped(pngs(30) | more))), ("name", (None, "left-out"))]
    report = service.post("/v1/datasets", files=form).json()["report"]
    assert report["rejected_files"][0]["path"] == "lot0/notes"
    assert (report["rejected"], report["ignored"]) == (1, 2)
    assert report["duplicates"]["examples"] == [["lot0/000.png", "lot0/again.png"]]


MALFORMED: list[tuple[bytes, str]] = [
    (zipped(pngs(20))[:-40], "malformed-archive"),
    (zipped([*pngs(20).items(), ("../outside.png", b"x")]), "unsafe-archive"),
    (zipped([*pngs(20).items(), (zip_link("link.png"), b"/etc/passwd")]), "unsafe-archive"),
    (tarred(pngs(20), "gz")[:-200], "malformed-archive"),
    (tarred(pngs(20), special=tar_member("link.png", tarfile.SYMTYPE, "/etc/passwd")), "unsafe-archive"),
    (npz(images=np.zeros((20, 8, 8), np.float32)), "malformed-array"),
    (zipped({f"{i}.bin": os.urandom(100) for i in range(20)}), "dataset-too-small"),
    (b"Rar!\x1a\x07\x00", "unsupported-archive"),
]


@pytest.mark.parametrize(("data", "slug"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_archive_is_refused_and_leaves_nothing(
    service: httpx.Client, home: Path, data: bytes, slug: str
) -> None:
    answer = upload(service, "malformed", ("upload.bin", data))
    assert (answer.status_code, answer.json()["type"]) == (422, slug), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert service.get("/v1/datasets/malformed").status_code == 404
    assert left(home) == []


@pytest.mark.parametrize(
    ("options", "status", "slug"),
    [
        ({"files": {"file": GOOD}}, 422, "invalid-request"),
        ({"data": {"name": "x"}, "files": {"other": GOOD}}, 422, "invalid-request"),
        ({"files": [("name", (None, "x")), ("name", (None, "y"))]}, 422, "invalid-request"),
        ({"files": [("name", (None, "x")), ("file", (None, "text"))]}, 422, "invalid-request"),
        ({"files": [("name", (None, "x"))]}, 422, "invalid-request"),
        ({"data": {"name": "../x"}, "files": {"file": GOOD}}, 422, "invalid-request"),
        ({"data": {"name": "x" * 65}, "files": {"file": GOOD}}, 422, "invalid-request"),
        ({"data": {"name": "mnist"}, "files": {"file": GOOD}}, 409, "dataset-taken"),
        ({"json": {"name": "x"}}, 415, "unsupported-media-type"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "malformed-form"),
        ({"content": b"x", "headers": {"content-type": FORM}}, 400, "malformed-form"),
        ({"content": f"--{BOUNDARY}\r\n", "headers": {"content-type": FORM}}, 400, "malformed-form"),
    ],
)
def test_a_bad_form_has_its_problem(
    service: httpx.Client, home: Path, options: dict[str, Any], status: int, slug: str
) -> None:
    answer = service.post("/v1/datasets", **options)
    assert (answer.status_code, answer.json()["type"]) == (status, slug), answer.text
    assert left(home) == []


def test_built_in_and_unknown_datasets(service: httpx.Client) -> None:
    assert service.get("/v1/datasets/mnist-mini").json()["report"] is None
    for path, slug in (("nobody", "dataset-not-found"), ("..%2F..%2Fregistry", "not-found")):
        assert (service.get(f"/v1/datasets/{path}").json()["type"]) == slug
    assert service.get("/v1/datasets/nobody/contact-sheet").status_code == 404
    assert service.get("/v1/datasets/mnist-mini/contact-sheet").json()["type"] == "contact-sheet-not-found"
    answer = service.delete("/v1/datasets/mnist-mini")
    assert (answer.status_code, answer.json()["type"]) == (409, "dataset-built-in")


def test_the_example_trains_on_own_images_which_are_deleted_once_no_job_uses_them(
    house: httpx.Client, tmp_path: Path
) -> None:
    for name, data in mixed().items():
        path = tmp_path / "cells" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def example(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = [ROOT / "examples" / "own_images.sh", str(house.base_url), str(tmp_path / "cells"), *arguments]
        return subprocess.run(script, capture_output=True, text=True, timeout=240, check=False)

    done = example("own", "snf-glow-tiny", "4", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 images" in done.stdout
    assert "p-value 0." in done.stdout
    again = example("own")
    assert (again.returncode, "409" in again.stderr) == (1, True)

    content = io.BytesIO()
    Image.fromarray(DIGITS[0, 0]).resize((400, 300)).save(content, "BMP")
    form = [("images", ("other.bmp", content.getvalue()))]
    answer = house.post("/v1/models/own:1/score", files=form)
    assert answer.status_code == 200, answer.text
    note = answer.json()["results"][0]["preprocessing"]
    assert (note["resized"], note["fit"], note["converted"]) == (True, "crop", "L -> RGB")
    assert "400x300" in note["warning"]
    manifest = house.get("/v1/models/own:1").json()["manifest"]
    assert manifest["training"]["provenance"]["formats"] == {"PNG": 15, "JPEG": 15, "BMP": 15, "WEBP": 15}

    check_deletion_waits_for_a_job(house)
    assert house.post("/v1/models/own:1/score", files=form).status_code == 200, "the model stays"


def check_deletion_waits_for_a_job(house: httpx.Client) -> None:
    """The dataset ``own`` is not deleted while a job uses it, and no job may use it afterwards."""
    # No worker takes it: it waits, and its dataset with it.
    request = {"type": "train", "dataset": "own", "model": "own", "preset": "snf-glow-tiny", "device": "cuda"}
    job = house.post("/v1/jobs", json=request).json()
    used = house.delete("/v1/datasets/own")
    assert (used.status_code, used.json()["type"]) == (409, "dataset-in-use"), used.text
    assert used.json()["job"] == job["id"]
    house.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    assert house.delete("/v1/datasets/own").status_code == 204
    assert house.delete("/v1/datasets/own").status_code == 404
    gone = house.post("/v1/jobs", json=request)
    assert (gone.status_code, gone.json()["errors"][0]["pointer"]) == (422, "/body/dataset")


def test_the_command_line_brings_folders(service: httpx.Client, tmp_path: Path) -> None:
    for name, data in (pngs(20, 2) | {"lot1/bad.png": b"no image", "lot1/notes.txt": b"not sent"}).items():
        path = tmp_path / "cells" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "more.zip").write_bytes(zipped(pngs(15, start=30)))
    upload_cells = ("datasets", "upload", "cells", str(tmp_path / "cells"), str(tmp_path / "more.zip"))
    for remote in ((), ("--url", str(service.base_url))):
        done = snf(tmp_path / "home", *upload_cells, "--json", *remote)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)["report"]
        assert (report["images"], report["rejected"]) == (35, 1)
        assert "bad.png" in snf(tmp_path / "home", "datasets", "show", "cells", *remote).stdout
    again = snf(tmp_path / "home", *upload_cells, *remote)
    assert (again.returncode, "choose another name" in again.stderr) == (2, True)
