"""Images that stay where they are, over HTTP: referred to, scored, trained on; and what callers may not name."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from snf_client import Client
from snf_models.bulk.output import stored_output
from snf_models.locations.location import Location
from tests.end_to_end.support.jobs import SMALL
from tests.end_to_end.support.service import MODEL, await_job, installed, running, serving, snf
from tests.support.ports import free_port
from tests.support.referenced import FORMS, Form, digits, put
from tests.support.s3 import S3Server

FILES = digits(60)


@pytest.fixture(scope="module")
def store(s3_server: S3Server) -> Iterator[S3Server]:
    """The S3 server, also of the processes that tests of this module start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        yield s3_server


@pytest.fixture(scope="module")
def bucket(store: S3Server) -> Location:
    """A bucket with the same digits in every form."""
    location = store.bucket("by-reference")
    for form in FORMS:
        put(location.child(form), form, FILES)
    return location


@pytest.fixture(scope="module")
def by_reference(bucket: Location, artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A whole installation whose callers may name the bucket, and one folder."""
    settings = {"allowed_locations": f"{bucket.url},{tmp_path_factory.getbasetemp().as_uri()}/shared"}
    with (
        installed(artifact) as home,
        running("tests.support.forking_house", home=home, forked=True, shipped=False, **settings) as client,
    ):
        yield client


def refer(client: httpx.Client, name: str, location: object, **more: Any) -> httpx.Response:
    return client.post("/v1/datasets/references", json={"name": name, "location": str(location), **more})


def table(client: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    return parquet.read_table(io.BytesIO(client.get(job["links"]["result"]).content)).to_pylist()


def scored_over_http(client: httpx.Client) -> list[dict[str, Any]]:
    uploads = [("images", (name, content, "image/png")) for name, content in FILES]
    results: list[dict[str, Any]] = client.post(f"/v1/models/{MODEL}/score", files=uploads).json()["results"]
    return results


def assert_same_scores(rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    assert [row["path"].rpartition("/")[2] for row in rows] == [name for name, _ in FILES]
    assert [row["log_likelihood"] for row in rows] == [result["log_likelihood"] for result in results]
    assert [row["p_value"] for row in rows] == [result["anomaly"]["p_value"] for result in results]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_referred_to(by_reference: httpx.Client, bucket: Location, form: Form) -> None:
    answer = refer(by_reference, f"digits-{form}", bucket.child(form))
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/datasets/digits-{form}"
    found = answer.json()
    assert (found["origin"], found["images"], found["image_shape"]) == ("reference", 60, [])
    assert (found["location"], found["report"]) == (f"{bucket}/{form}", None)
    assert (found["reference"]["images"], found["reference"]["rejected"]) == (60, 0)
    assert by_reference.get(f"/v1/datasets/digits-{form}").json() == found


@pytest.mark.parametrize("form", ["folder", "parquet-struct"])
def test_scores_by_reference_are_those_over_http_to_the_bit(
    by_reference: httpx.Client, bucket: Location, form: Form
) -> None:
    assert refer(by_reference, f"scored-{form}", bucket.child(form)).status_code == 201
    body = {"type": "score", "dataset": f"scored-{form}", "model": MODEL, "parameters": {"images_per_part": 25}}

    done = await_job(by_reference, by_reference.post("/v1/jobs", json=body).json()["id"], "succeeded")

    assert_same_scores(table(by_reference, done), scored_over_http(by_reference))


def test_a_model_is_trained_on_inspected_images(by_reference: httpx.Client, bucket: Location) -> None:
    plain = refer(by_reference, "plain", bucket.child("tar")).json()
    few = {"max_steps": 2, "batch_size": 8, "validations": 1, "validation_images": 10, "image_size": [24, 20]}
    request = {"type": "train", "dataset": "plain", "model": "own", "architecture": SMALL, "parameters": few}
    refused = by_reference.post("/v1/jobs", json=request)
    assert (refused.status_code, refused.json()["type"]) == (422, "dataset-unfit")
    assert "only jobs of type score take it" in refused.json()["detail"]
    assert by_reference.get("/v1/datasets/plain/contact-sheet").status_code == 422

    with Client(str(by_reference.base_url)) as client:
        inspected = client.datasets.refer("inspected", f"{bucket}/tar", inspect=True)
    assert (inspected.images, inspected.image_shape) == (60, [1, 28, 28])
    assert inspected.report is not None
    assert inspected.report.images == 60
    sheet = by_reference.get("/v1/datasets/inspected/contact-sheet")
    assert sheet.headers["content-type"] == "image/png"
    job = by_reference.post("/v1/jobs", json=request | {"dataset": "inspected"}).json()
    await_job(by_reference, job["id"], "succeeded")
    prepared = by_reference.get("/v1/models/own:1").json()["manifest"]["preprocessing"]
    assert (prepared["height"], prepared["width"]) == (24, 20)
    evaluation = {"type": "evaluate", "dataset": "inspected", "model": MODEL, "parameters": {"against": ["plain"]}}
    answer = by_reference.post("/v1/jobs", json=evaluation)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/body/parameters/against/0")
    assert plain["train"] == 0


def test_deleting_leaves_the_images_and_changed_files_are_errors(by_reference: httpx.Client, store: S3Server) -> None:
    place = Location("s3://by-reference/changing")
    put(place, "folder", FILES[:12])
    assert refer(by_reference, "changing", place).status_code == 201
    names = [entry.name for entry in place.files()]
    place.child(names[3]).write(FILES[30][1])
    place.child(names[4]).delete()
    body = {"type": "score", "dataset": "changing", "model": MODEL}

    done = await_job(by_reference, by_reference.post("/v1/jobs", json=body).json()["id"], "partial")

    rows = table(by_reference, done)
    assert [row["path"] for row in rows if row["error"]] == names[3:5]
    assert all("has changed or is gone" in row["error_detail"] for row in rows[3:5])
    assert by_reference.delete("/v1/datasets/changing").status_code == 204
    assert len(list(place.files())) == 11
    assert by_reference.get("/v1/datasets/changing").status_code == 404


@pytest.mark.parametrize(
    ("location", "slug"),
    [
        ("s3://other/lots", "location-refused"),
        ("s3://by-reference/../other", "location-refused"),
        ("file:///etc", "location-refused"),
        ("http://127.0.0.1/lots", "location-refused"),
        ("lots", "location-refused"),
        ("s3://by-reference/empty", "dataset-too-small"),
    ],
)
def test_what_cannot_be_named_leaves_nothing(by_reference: httpx.Client, location: str, slug: str) -> None:
    answer = refer(by_reference, "not-made", location)
    assert (answer.status_code, answer.json()["type"]) == (422, slug), answer.text
    assert by_reference.get("/v1/datasets/not-made").status_code == 404


def test_bad_requests_are_named(by_reference: httpx.Client, bucket: Location) -> None:
    for body, pointer in (
        ({"name": "x"}, "/body/location"),
        ({"name": "No Name", "location": bucket.url}, "/body/name"),
        ({"name": "x", "location": bucket.url, "columns": "y"}, "/body/columns"),
    ):
        answer = by_reference.post("/v1/datasets/references", json=body)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    wrong = refer(by_reference, "x", bucket.child("parquet"), column="label")
    assert (wrong.status_code, wrong.json()["type"]) == (422, "unsuitable-column")
    assert refer(by_reference, "taken", bucket.child("tar")).status_code == 201
    assert refer(by_reference, "taken", bucket.child("tar")).json()["type"] == "dataset-taken"


def test_nothing_may_be_named_by_default_and_a_server_that_is_down_is_said(
    tmp_path: Path, store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, shipped=False) as client:
        answer = refer(client, "x", "s3://lots/2026")
        assert (answer.status_code, answer.json()["type"]) == (422, "location-refused")
        assert "SNF_ALLOWED_LOCATIONS, which is not set" in answer.json()["detail"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with serving(tmp_path, shipped=False, allowed_locations="s3://lots") as client:
        began = time.monotonic()
        answer = refer(client, "x", "s3://lots/2026")
        assert (answer.status_code, answer.json()["type"]) == (503, "location-unavailable")
        assert "no connection to the server can be made" in answer.json()["detail"]
        assert time.monotonic() - began < 45
        assert client.get("/v1/datasets/x").status_code == 404


def test_the_command_line_refers_to_folders_without_a_setting(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "lots"
    put(Location(folder.as_uri()), "folder", FILES)
    done = snf(home, "datasets", "refer", "lots", str(folder))
    assert (done.returncode, "only jobs of type score take it" in done.stdout) == (0, True), done.stderr
    assert snf(home, "datasets", "show", "lots").stdout == done.stdout


def test_scores_at_a_location_are_those_of_a_table_and_over_http_to_the_bit(
    by_reference: httpx.Client, bucket: Location, home: Path, tmp_path: Path
) -> None:
    assert refer(by_reference, "for-output", bucket.child("tar")).status_code == 201
    place = bucket.child("scores/job")
    body = {"type": "score", "dataset": "for-output", "model": MODEL}
    foreign = by_reference.post("/v1/jobs", json=body | {"parameters": {"output": "s3://other/scores"}})
    assert (foreign.status_code, foreign.json()["type"]) == (422, "location-refused")

    given = {"output": place.url, "images_per_part": 25}
    there = by_reference.post("/v1/jobs", json=body | {"parameters": given}).json()
    here = by_reference.post("/v1/jobs", json=body).json()
    there, here = (await_job(by_reference, job["id"], "succeeded") for job in (there, here))

    assert there["result"] == here["result"] | {"output": place.url, "plan": stored_output(place).plan.digest}
    assert "result" not in there["links"]
    refused = by_reference.get(f"/v1/jobs/{there['id']}/result")
    assert (refused.status_code, refused.json()["type"]) == (409, "result-at-output")
    assert refused.json()["output"] == place.url
    whole = by_reference.get(here["links"]["result"]).content
    assert_same_scores(table(by_reference, here), scored_over_http(by_reference))
    command = ("jobs", "download", there["id"], "--out", str(tmp_path / "all.parquet"))
    downloaded = snf(home, *command, "--url", str(by_reference.base_url))
    assert downloaded.returncode == 0, downloaded.stderr
    assert (tmp_path / "all.parquet").read_bytes() == whole

    exported = f"{bucket}/models/digits"
    assert snf(home, "models", "export", MODEL, exported).returncode == 0
    again = snf(home, "models", "export", MODEL, exported)
    assert (again.returncode, "holds manifest.json" in again.stderr) == (2, True), again.stderr
    for model, name in ((MODEL, "by-name"), (exported, "by-location")):
        out = f"{bucket}/scores/{name}"
        done = snf(home, "bulk", f"{bucket}/tar", "-m", model, "--out", out, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["images"] == 60
        [part] = stored_output(Location(out)).files()
        rows = parquet.read_table(part).to_pylist()
        labels = {"model": model if model == exported else f"{MODEL}:1", "dataset": f"{bucket}/tar"}
        assert rows == [row | labels for row in parquet.read_table(io.BytesIO(whole)).to_pylist()]
    taken = snf(home, "bulk", f"{bucket}/tar", "-m", exported, "--out", f"{bucket}/scores/by-name")
    assert (taken.returncode, "write over it with --force" in taken.stderr) == (2, True), taken.stderr
    imported = snf(home, "models", "import", "copy", exported, "--url", str(by_reference.base_url))
    assert imported.returncode == 0, imported.stderr
