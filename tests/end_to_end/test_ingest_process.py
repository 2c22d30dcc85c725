"""Uploads are read in a process of its own: what is in them, and how it ends, leaves the service as it was."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.support.processes import pid_of, rss
from tests.end_to_end.support.service import answers, environment, running, serving
from tests.end_to_end.support.uploads import BOUNDARY, FORM, GOOD, begun, left, upload
from tests.models.datasets.upload_files import MIB, TARS, endless_groups, white_images
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.worker.support.helpers import alive, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


SLOW = ("slow.zip", white_images(200))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ingest")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[httpx.Client]:
    with running("snf_app.server", home=home, shipped=False, measured=True) as client:
        upload(client, "warm", GOOD).raise_for_status()
        yield client


def readers(home: Path) -> list[int]:
    """The processes that read an upload of this service, once they are about to write a dataset."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"snf_worker.sandbox.uploads:read_files" in (folder / "cmdline").read_bytes().split(b"\0") and (
                f"SNF_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found if list((home / "datasets").glob(".slow.*/originals.bin")) else []


class Posting(threading.Thread):
    """An upload in hand; ``answer`` is None where the service did not live to give one."""

    def __init__(self, url: httpx.URL) -> None:
        super().__init__()
        self._url = url
        self.answer: httpx.Response | None = None

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120, trust_env=False) as client:
            try:
                self.answer = upload(client, "slow", SLOW)
            except httpx.TransportError:
                return


@pytest.mark.parametrize("bomb", ["pax", "npz"])
def test_a_bomb_costs_the_service_nothing(service: httpx.Client, home: Path, bomb: str) -> None:
    data = TARS["pax digits"][0] if bomb == "pax" else endless_groups(256 * MIB)
    pid = pid_of(home)
    before = rss(pid)
    answer = upload(service, "bomb", ("bomb", data))
    assert answer.status_code == 422, answer.text
    assert rss(pid) - before < 8 * MIB
    assert left(home) == []


def test_a_reader_that_is_killed_is_a_refused_upload(service: httpx.Client, home: Path) -> None:
    posting = Posting(service.base_url)
    posting.start()
    (reader,) = until(lambda: readers(home))
    os.kill(reader, signal.SIGKILL)
    posting.join()
    assert posting.answer is not None
    assert (posting.answer.status_code, posting.answer.json()["type"]) == (422, "reading-failed"), posting.answer.text
    assert left(home) == []
    assert service.get("/v1/datasets/slow").status_code == 404


def test_a_client_that_leaves_ends_the_reader(service: httpx.Client, home: Path) -> None:
    body = begun("slow") + SLOW[1] + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = f"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    assert service.base_url.port is not None
    with socket.create_connection((service.base_url.host, service.base_url.port)) as connection:
        connection.sendall(head.encode() + body)
        (reader,) = until(lambda: readers(home))
    until(lambda: not alive(reader))
    until(lambda: not left(home))
    assert service.get("/v1/datasets/slow").status_code == 404


def test_a_service_that_is_killed_takes_the_reader_along(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "snf_app.server"],
        cwd=ROOT,
        env=environment(tmp_path, shipped=False, measured=True, port=port),
    )
    try:
        url = httpx.URL(f"http://127.0.0.1:{port}")
        with httpx.Client(base_url=url, trust_env=False) as client:
            until(lambda: answers(client), 120)
        posting = Posting(url)
        posting.start()
        (reader,) = until(lambda: readers(tmp_path))
    finally:
        process.kill()
        process.wait()
    posting.join()
    until(lambda: not alive(reader), 10)
    assert left(tmp_path) != []
    with serving(tmp_path, shipped=False, measured=True):
        assert left(tmp_path) == []
