"""Large image files beside small ones, and clients that leave while their images are decoded, over real sockets."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import pytest

from snf_models.registry.registry import ZOO, Registry
from tests.end_to_end.support.service import serving
from tests.end_to_end.support.uploads import half_a_post
from tests.support.image_files import jpeg_of_scans
from tests.support.paths import DIGITS

SCORE = "/v1/models/resizing/score"


def resizing_artifact(folder: Path) -> Path:
    """Return an artifact that brings images of any size and colour to those of the shipped model of digits."""
    artifact = folder / "resizing"
    shutil.copytree(ZOO / "mnist-snf-glow" / "1", artifact)
    file = artifact / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["preprocessing"] |= {"fit": "stretch", "colour": "grey"}
    file.write_text(json.dumps(manifest))
    return artifact


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoding")
    Registry(folder / "registry").publish(resizing_artifact(folder), "resizing", promote=True)
    return folder


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[httpx.Client]:
    with serving(home, shipped=False) as client:
        scored(client, DIGITS[0].read_bytes(), "image/png")  # loads the model
        yield client


def scored(client: httpx.Client, data: bytes, kind: str) -> float:
    """Score an image and return the seconds that it took."""
    began = time.perf_counter()
    client.post(SCORE, content=data, headers={"content-type": kind}, timeout=120).raise_for_status()
    return time.perf_counter() - began


def flat_jpeg(side: int) -> bytes:
    """A file of some kilobytes whose 64 scans pass over all its pixels."""
    return jpeg_of_scans(np.zeros((side, side), np.uint8), 64)


def test_a_small_image_does_not_wait_for_large_ones(service: httpx.Client) -> None:
    large, small = flat_jpeg(3000), DIGITS[0].read_bytes()
    alone = scored(service, large, "image/jpeg")
    with ThreadPoolExecutor() as pool:
        busy = [pool.submit(scored, service, large, "image/jpeg") for _ in range(4)]
        time.sleep(alone / 4)
        beside = [scored(service, small, "image/png") for _ in range(6)]
        assert not all(one.done() for one in busy)
    # The median, as other processes of the machine may hold up any one of them.
    assert median(beside) < alone / 2


def test_decoding_ends_where_the_client_leaves(service: httpx.Client) -> None:
    data = flat_jpeg(3000)
    before = processor_seconds(service)
    scored(service, data, "image/jpeg")
    whole = processor_seconds(service) - before
    before += whole
    with half_a_post(service, SCORE, data[:-1], "image/jpeg") as connection:
        connection.sendall(data[-1:])
        time.sleep(0.05)
    earlier, used = -1.0, 0.0
    while used > earlier + 0.05:  # until it is idle
        time.sleep(1)
        earlier, used = used, processor_seconds(service) - before
    assert used < whole / 2


def processor_seconds(client: httpx.Client) -> float:
    """Return the processor time that the service has used."""
    [line] = [
        line for line in client.get("/metrics").text.splitlines() if line.startswith("process_cpu_seconds_total ")
    ]
    return float(line.split()[1])
