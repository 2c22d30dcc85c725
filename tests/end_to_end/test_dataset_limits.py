"""Uploads within their limits: memory, disk, places; and what is cut off or stopped leaves nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.support.processes import pid_of, rss
from tests.end_to_end.support.service import running, serving
from tests.end_to_end.support.uploads import FORM, GOOD, begun, big_tar, form_of, half_a_post, left, upload
from tests.models.datasets.upload_files import mixed, pngs, tarred, zipped
from tests.worker.support.helpers import until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[httpx.Client]:
    with running("snf_app.server", home=home, shipped=False, measured=True) as client:
        yield client


def test_an_upload_that_is_cut_off_leaves_nothing(service: httpx.Client, home: Path) -> None:
    body = begun("cut") + tarred(pngs(60))
    with half_a_post(service, "/v1/datasets", body, FORM):
        until(lambda: left(home))
    until(lambda: not left(home))
    assert service.get("/v1/datasets/cut").status_code == 404


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_flat_while_a_large_upload_streams(service: httpx.Client, home: Path) -> None:
    upload(service, "warm", GOOD).raise_for_status()
    pid = pid_of(home)
    before = rss(pid)
    most = before
    streamed = 0
    done = threading.Event()

    def content() -> Iterator[bytes]:
        nonlocal streamed
        yield from big_tar(100 * 2**20)
        streamed = most

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, rss(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answer = service.post("/v1/datasets", content=form_of("large", content()), headers={"content-type": FORM})
    finally:
        done.set()
        watcher.join()
    assert answer.status_code == 201, answer.text
    assert answer.json()["report"]["rejected_by"] == {"file-too-large": 1}
    assert streamed - before < 16 * 2**20
    assert most - before < 16 * 2**20, "the file of 64 MiB that may be looked at is held by another process"
    assert left(home) == []


def test_limits(tmp_path: Path) -> None:
    limits = {"dataset_quota_bytes": 60_000, "max_dataset_bytes": 200_000, "max_dataset_uploads": 1}
    with serving(tmp_path, shipped=False, measured=True, **limits) as client:

        def refused(answer: httpx.Response, status: int, slug: str) -> None:
            assert (answer.status_code, answer.json()["type"]) == (status, slug), answer.text
            assert left(tmp_path) == []

        content = tarred(mixed())
        assert 60_000 < len(content) < 200_000
        refused(upload(client, "full", ("a.tar", content)), 507, "storage-full")
        # Nothing is declared here: it shows while it is written.
        streamed = {"headers": {"content-type": FORM}}
        refused(client.post("/v1/datasets", content=form_of("full", iter([content])), **streamed), 507, "storage-full")
        refused(upload(client, "large", ("a.tar", bytes(300_000))), 413, "content-too-large")
        with half_a_post(client, "/v1/datasets", begun("first"), FORM):
            until(lambda: left(tmp_path))
            second = upload(client, "second", GOOD)
            assert (second.status_code, second.json()["type"]) == (429, "too-many-uploads")
            assert int(second.headers["retry-after"]) >= 1
        until(lambda: not left(tmp_path))
        # A quota counts what is kept, and not the upload beside it.
        fits = zipped(pngs(100))
        assert 30_000 < len(fits) < 60_000
        assert upload(client, "fits", ("a.zip", fits)).status_code == 201
        until(lambda: upload(client, "second", GOOD).status_code != 429)


def test_a_service_that_stops_ends_an_upload(tmp_path: Path) -> None:
    body = begun("first") + tarred(pngs(20))
    with ExitStack() as connections:
        with serving(tmp_path, shipped=False, measured=True) as client:
            connections.enter_context(half_a_post(client, "/v1/datasets", body, FORM))
            until(lambda: left(tmp_path))
            began = time.monotonic()
        assert time.monotonic() - began < 20, "it does not wait for the deadline of its requests"
        assert left(tmp_path) == []
