"""The polite client: single images, one after the other, from an address of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from benchmarks.common import percentile
from benchmarks.installation import resident_bytes
from benchmarks.overload import pictures

ADDRESS = "127.0.0.2"
IMAGES = 32
PAUSE_S = 0.05
SAME = 1e-4
"""Nats by which a score may differ between batches."""


class PoliteClient(httpx.Client):
    """Sends single images, and counts answers that are refused, failed, or unlike the score without disturbance."""

    def __init__(self, port: int, model: str) -> None:
        transport = httpx.HTTPTransport(local_address=ADDRESS)
        super().__init__(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=60)
        self._path = f"/v1/models/{model}/score"
        self._images = pictures(self, model, IMAGES)
        self._scores: dict[int, float] = {}
        self.wrongs: Counter[str] = Counter()

    def batch_seconds(self, images: int, repeats: int) -> float:
        """Return the median time of a request with as many images."""
        form = [("images", ("image.png", (self._images * images)[number], "image/png")) for number in range(images)]
        took = []
        for _ in range(repeats):
            began = time.perf_counter()
            self.post(self._path, files=form).raise_for_status()
            took.append(time.perf_counter() - began)
        return percentile(took, 0.5)

    def score_for(self, seconds: float) -> list[float]:
        """Send images for some time, and return the seconds of each answer."""
        took: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._send_one(len(took) % len(self._images), took)
            time.sleep(PAUSE_S)
        return took

    def _send_one(self, index: int, took: list[float]) -> None:
        began = time.perf_counter()
        try:
            answer = self.post(self._path, content=self._images[index], headers={"Content-Type": "image/png"})
        except httpx.TransportError:
            self.wrongs["failed"] += 1
            return
        took.append(time.perf_counter() - began)
        if answer.status_code != 200:
            self.wrongs["refused"] += 1
            return
        score = answer.json()["results"][0]["log_likelihood"]
        self.wrongs["wrong"] += abs(score - self._scores.setdefault(index, score)) > SAME


@contextmanager
def memory_growth(pid: int) -> Iterator[list[int]]:
    """Give the growth of the resident memory of a process, several times a second while the block runs."""
    before, over = resident_bytes(pid), threading.Event()
    growth = [0]

    def look() -> None:
        while not over.wait(0.1):
            growth.append(resident_bytes(pid) - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield growth
    finally:
        over.set()
        thread.join()
