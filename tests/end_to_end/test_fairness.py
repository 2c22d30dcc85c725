"""No request keeps others waiting until it is done, and none takes the room of another caller, over real sockets."""

import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

LARGE, SMALL = "/v1/models/mnist-snf-glow", "/v1/models/digits"
LOOPBACK = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more loopback addresses than one")


def from_address(client: httpx.Client, address: str) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=client.base_url, transport=transport, timeout=120, trust_env=False)


def array(count: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(count * 784, dtype=np.uint64).astype(np.uint8).reshape(count, 28, 28))
    return buffer.getvalue()


def single(client: httpx.Client, model: str) -> httpx.Response:
    return client.post(f"{model}/score", content=DIGITS[0].read_bytes(), headers={"content-type": "image/png"})


def queued(client: httpx.Client) -> int:
    images: int = client.get("/readyz").json()["queue"]["images"]
    return images


@pytest.mark.parametrize(
    ("path", "images"),
    [
        ("samples?n=256&format=json", 0),
        ("audit?n=16", 0),
        ("score?explain=true&draws=8", 64),
        ("score?draws=128", 4),
        ("score", 512),
    ],
)
def test_a_single_image_is_scored_while_a_long_request_goes_on(house: httpx.Client, path: str, images: int) -> None:
    alone = single(house, LARGE).json()["results"][0]
    kind = {"content-type": "application/x-npy"}

    def long() -> httpx.Response:
        if images:
            return house.post(f"{LARGE}/{path}", content=array(images), headers=kind)
        return house.get(f"{LARGE}/{path}")

    with ThreadPoolExecutor() as pool:
        greedy = pool.submit(long)
        until(lambda: queued(house) > 1, 30, 0)
        answers = [single(house, LARGE) for _ in range(2)]
        assert queued(house) > 1, "the long request held the scoring thread until it was done"
        assert greedy.result().status_code == 200
    for answer in answers:
        assert answer.status_code == 200
        assert answer.json()["results"][0]["log_likelihood"] == alone["log_likelihood"]


@LOOPBACK
def test_arrays_of_three_clients_refuse_no_image_of_a_fourth(house: httpx.Client) -> None:
    stop = threading.Event()
    body, kind = array(1024), {"content-type": "application/x-npy"}
    one_caller = house.get("/readyz").json()["queue"]["capacity"] // 2
    assert one_caller < 3 * 1024
    single(house, SMALL).raise_for_status()

    def post(address: str) -> set[int]:
        statuses = set()
        with from_address(house, address) as greedy:
            while not stop.is_set():
                statuses.add(greedy.post(f"{SMALL}/score", content=body, headers=kind).status_code)
        return statuses

    with ThreadPoolExecutor() as pool, from_address(house, "127.0.0.9") as polite:
        greedy = [pool.submit(post, f"127.0.0.{number}") for number in (2, 3, 4)]
        try:
            until(lambda: queued(house) > one_caller, 30, 0)
            answers = [single(polite, SMALL).status_code for _ in range(5)]
        finally:
            stop.set()
        assert answers == [200] * 5
        assert 200 in set.union(*(one.result() for one in greedy))
