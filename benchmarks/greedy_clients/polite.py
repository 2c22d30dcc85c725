"""The polite client: single images, one after the other, from an address of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.installation import percentile, resident_bytes
from benchmarks.overload import pictures

ADDRESS = "127.0.0.2"
IMAGES = 32
PAUSE_S = 0.05
SAME = 1e-4
"""Nats by which a score may differ between batches."""


@dataclass
class Seen:
    """What the polite client was answered."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    wrong: int = 0


class PoliteClient:
    """Sends single images, and knows what their scores are without disturbance."""

    def __init__(self, port: int, model: str) -> None:
        transport = httpx.HTTPTransport(local_address=ADDRESS)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=60)
        self._path = f"/v1/models/{model}/score"
        self._images = pictures(self._client, model, IMAGES)
        self._scores: dict[int, float] = {}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def batch_seconds(self, images: int, repeats: int) -> float:
        """Return the median time of a request with as many images."""
        form = [("images", ("image.png", (self._images * images)[number], "image/png")) for number in range(images)]
        took = []
        for _ in range(repeats):
            began = time.perf_counter()
            self._client.post(self._path, files=form).raise_for_status()
            took.append(time.perf_counter() - began)
        return percentile(took, 0.5)

    def send(self, seconds: float) -> Seen:
        """Send images for some time."""
        seen = Seen()
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            self._send_one(number % len(self._images), seen)
            number += 1
            time.sleep(PAUSE_S)
        return seen

    def _send_one(self, index: int, seen: Seen) -> None:
        began = time.perf_counter()
        try:
            answer = self._client.post(self._path, content=self._images[index], headers={"Content-Type": "image/png"})
        except httpx.TransportError:
            seen.failed += 1
            return
        seen.seconds.append(time.perf_counter() - began)
        if answer.status_code != 200:
            seen.refused += 1
            return
        score = answer.json()["results"][0]["log_likelihood"]
        seen.wrong += abs(score - self._scores.setdefault(index, score)) > SAME


class Memory:
    """The largest resident memory of a process, as seen several times a second."""

    def __init__(self) -> None:
        self.before = 0
        self.most = 0

    @property
    def growth(self) -> int:
        """Bytes that were added at the worst moment."""
        return self.most - self.before


@contextmanager
def watching_memory(pid: int) -> Iterator[Memory]:
    """Look at the memory of a process while the block runs."""
    memory = Memory()
    memory.before = memory.most = resident_bytes(pid)
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            memory.most = max(memory.most, resident_bytes(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()
