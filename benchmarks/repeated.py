"""Work that a thread repeats beside a benchmark, such as calls at a steady pace, and what came of each."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Self

import httpx

from benchmarks.installation import PatientClient
from tests.support.paths import DIGITS

MODEL = "mnist-snf-glow"
EVERY_S = 0.2


class Repeated(ABC):
    """A thread that takes one turn after the other while a ``with`` block runs.

    Args:
        pause_s: Seconds before each turn.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def turn(self) -> None:
        """Do the work once."""

    def _loop(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.turn()


class Steady(Repeated):
    """A thread that makes a call at a steady pace and keeps what came of it."""

    def __init__(self, port: int, call: Callable[[httpx.Client, int], httpx.Response]) -> None:
        super().__init__(EVERY_S)
        self._client = PatientClient(port)
        self._call = call
        self.answers: list[tuple[float, str, float]] = []
        """When it was asked, what came, and after how many seconds."""

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._client.close()

    def since(self, began: float) -> list[tuple[float, str, float]]:
        """Return what was asked after ``began``."""
        return [answer for answer in list(self.answers) if answer[0] >= began]

    def counts(self, began: float, ended: float) -> dict[str, int]:
        """Return how often each answer of ``/readyz`` came between two moments."""
        return dict(Counter(brief(text) for at, text, _ in self.since(began) if at <= ended))

    def turn(self) -> None:
        """Make the call once."""
        began = time.monotonic()
        try:
            answer = self._call(self._client, len(self.answers))
            said = answer.text if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
        except httpx.TransportError as error:
            said = f"failed: {error!r}"
        self.answers.append((began, said, time.monotonic() - began))


def score(client: httpx.Client, turn: int) -> httpx.Response:
    """Score one image."""
    content = DIGITS[turn % len(DIGITS)].read_bytes()
    return client.post(f"/v1/models/{MODEL}/score", content=content, headers={"content-type": "image/png"})


def readiness(client: httpx.Client, _turn: int) -> httpx.Response:
    """Ask how the service is."""
    return client.get("/readyz")


def brief(text: str) -> str:
    """Return what an answer of ``/readyz`` comes down to."""
    if not text.startswith("{"):
        return text
    document = json.loads(text)
    return f"200 {document['status']}, jobs {document['jobs']}"
