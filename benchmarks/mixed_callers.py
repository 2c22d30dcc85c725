"""Callers of a mixed load: each does one kind of work over and over, and checks every answer."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import time
import zipfile
from abc import abstractmethod
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.installation import PatientClient
from benchmarks.repeated import Repeated
from models.datasets.storage import ORIGINALS, open_index
from tests.support.paths import DIGITS

MODEL = "mnist-snf-glow"
PAIR = "pair"
ALIAS = "pick"
BUSY = {429, 503, 504}
"""Answers of a service that starts, stops or has too much to do."""
SETTLED_S = 120.0
"""Longest time after a move of an alias until its version is loaded; the version before answers meanwhile."""
STOPPED = 0
KEPT = 3
PNG = {"content-type": "image/png"}


class Caller(Repeated):
    """A thread that calls again and again; wrong answers are kept in words."""

    pause_s = 0.05

    def __init__(self, port: int) -> None:
        super().__init__(self.pause_s)
        self.client = PatientClient(port)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._turns = itertools.count()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.client.close()

    def turn(self) -> None:
        """Call once, and keep what goes wrong."""
        try:
            self.call(next(self._turns))
        except Exception as error:  # nothing that goes wrong may be missed
            self.fail(repr(error))

    @abstractmethod
    def call(self, number: int) -> None:
        """Call the service and check its answer.

        Args:
            number: Number of the turn.
        """

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return an answer that must be right; None where the service was away or busy."""
        try:
            answer = self.client.request(method, path, **options)
        except httpx.TransportError:
            self.answers["away"] += 1
            return None
        self.answers[str(answer.status_code)] += 1
        if answer.status_code in BUSY:
            return None
        return answer

    def fail(self, text: str) -> None:
        """Keep a wrong answer."""
        self.wrong.append(f"{type(self).__name__}: {text}"[:500])


def scores_of(answer: httpx.Response) -> list[tuple[float, float]]:
    """Return likelihood and p-value of each image, exactly as the answer gives them."""
    return [(one["log_likelihood"], one["anomaly"]["p_value"]) for one in answer.json()["results"]]


class Scores(Caller):
    """Scores single images and groups of four, which must be equal to the bit to those of an idle service."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._images = [path.read_bytes() for path in DIGITS]
        self._path = f"/v1/models/{MODEL}/score"
        self._right = [
            scores_of(self.client.post(self._path, content=image, headers=PNG).raise_for_status())[0]
            for image in self._images
        ]

    def call(self, number: int) -> None:
        """Score one image, or four at once."""
        size = 4 if number % 3 == 0 else 1
        chosen = [(number + offset) % len(self._images) for offset in range(size)]
        form = [("images", (f"{index}.png", self._images[index], "image/png")) for index in chosen]
        answer = self.ask("POST", self._path, files=form)
        if answer is not None and (
            answer.status_code != 200 or scores_of(answer) != [self._right[index] for index in chosen]
        ):
            self.fail(f"images {chosen}: {answer.status_code} {answer.text}")


class Samples(Caller):
    """Draws samples by their seeds, which must be the bytes that an idle service gave."""

    pause_s = 0.5

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._right = [self._draw(seed).raise_for_status().content for seed in range(4)]

    def _draw(self, seed: int) -> httpx.Response:
        return self.client.get(f"/v1/models/{MODEL}/samples", params={"n": 2, "seed": seed, "format": "npy"})

    def call(self, number: int) -> None:
        """Draw the samples of one seed."""
        seed = number % len(self._right)
        query = {"n": 2, "seed": seed, "format": "npy"}
        answer = self.ask("GET", f"/v1/models/{MODEL}/samples", params=query)
        if answer is not None and (answer.status_code != 200 or answer.content != self._right[seed]):
            self.fail(f"seed {seed}: {answer.status_code}, {len(answer.content)} other bytes")


class Moves(Caller):
    """Moves an alias between two versions, and checks that scores come from where it was moved last."""

    pause_s = 0.5

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._image = DIGITS[0].read_bytes()
        self._right = {version: self._score(f"{PAIR}:{version}") for version in (1, 2)}
        self._target = 1
        self.slowest_s = 0.0
        """Longest time from the acknowledgement of a move to the first answer of its version."""

    def _score(self, ref: str) -> list[tuple[float, float]]:
        path = f"/v1/models/{ref}/score"
        return scores_of(self.client.patient("POST", path, content=self._image, headers=PNG).raise_for_status())

    def call(self, number: int) -> None:
        """Move the alias, or score by it."""
        if number % 10 == 0:
            self._target = 3 - self._target
            # Repeated until it is acknowledged: it does no harm to do it twice.
            path = f"/v1/models/{PAIR}/aliases/{ALIAS}"
            moved = self.client.patient("PUT", path, json={"version": self._target}, seconds=120)
            self.answers[str(moved.status_code)] += 1
            if moved.status_code != 200 or moved.json()["aliases"].get(ALIAS) != self._target:
                self.fail(f"move to {self._target}: {moved.status_code} {moved.text}")
            began = time.monotonic()
            while self._answering() not in (self._target, STOPPED):
                if time.monotonic() - began > SETTLED_S:
                    self.fail(f"the alias does not get to {self._target}")
                    return
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        elif (version := self._answering()) not in (self._target, None, STOPPED):
            self.fail(f"the alias is at {self._target} and {version} answers")

    def _answering(self) -> int | None:
        """Return the version that scores by the alias, whose scores are checked; None where the service is away."""
        if self._stop.wait(self.pause_s / 5):
            return STOPPED
        answer = self.ask("POST", f"/v1/models/{PAIR}@{ALIAS}/score", content=self._image, headers=PNG)
        if answer is None:
            return None
        if answer.status_code != 200:
            self.fail(f"alias: {answer.status_code} {answer.text}")
            return None
        version: int = answer.json()["version"]
        if scores_of(answer) != self._right[version]:
            self.fail(f"version {version}: {answer.text}")
        return version


class Uploads(Caller):
    """Uploads datasets, whose images must then be there to the byte, and deletes old ones."""

    pause_s = 2.0

    def __init__(self, port: int, home: Path) -> None:
        super().__init__(port)
        self._datasets = home / "datasets"
        self.uploaded = 0

    def call(self, number: int) -> None:
        """Upload one dataset, check it, and delete the one that is three older."""
        name, files = f"set-{number}", pictures(number)
        while not self._stop.is_set():
            answer = self.ask("POST", "/v1/datasets", data={"name": name}, files={"file": ("set.zip", zipped(files))})
            # After a lost answer it may be there already.
            if answer is not None and answer.status_code in (201, 409):
                break
            if answer is not None:
                self.fail(f"{name}: {answer.status_code} {answer.text}")
            self._stop.wait(1)
        else:
            return
        self.uploaded += 1
        self._check(name, files)
        if number >= KEPT:
            gone = self.client.patient("DELETE", f"/v1/datasets/set-{number - KEPT}", seconds=120)
            if gone.status_code not in (204, 404):
                self.fail(f"deletion of set-{number - KEPT}: {gone.status_code} {gone.text}")

    def _check(self, name: str, files: dict[str, bytes]) -> None:
        report = self.client.document(f"/v1/datasets/{name}")["report"]
        if (report["images"], report["bytes"], report["rejected"]) != (len(files), sum(map(len, files.values())), 0):
            self.fail(f"{name}: {report['images']} images, {report['bytes']} bytes, {report['rejected']} rejected")
        content = (self._datasets / name / ORIGINALS).read_bytes()
        with closing(open_index(self._datasets / name)) as index:
            rows = index.execute("SELECT path, start, bytes FROM images").fetchall()
        stored = {path: hashlib.sha256(content[start : start + size]).hexdigest() for path, start, size in rows}
        if stored != {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}:
            self.fail(f"{name}: the stored images are not those that were sent")


class Trainings(Caller):
    """Submits a training whenever the one before has ended, each once however often it must be asked for."""

    pause_s = 1.0

    def __init__(self, port: int, request: dict[str, Any]) -> None:
        super().__init__(port)
        self._request = request
        self.jobs: list[str] = []

    def call(self, number: int) -> None:
        """Submit a training, and wait for its end."""
        self.jobs.append(self.client.submit(self._request, f"mixed {number}"))
        while not self._stop.wait(1):
            answer = self.ask("GET", f"/v1/jobs/{self.jobs[-1]}")
            if answer is None:
                continue
            if answer.status_code != 200:
                self.fail(f"job {self.jobs[-1]}: {answer.status_code} {answer.text}")
                return
            if answer.json()["status"] in ("succeeded", "failed", "cancelled"):
                return


def pictures(number: int, count: int = 40) -> dict[str, bytes]:
    """Return PNG files of small pictures that differ from those of every other number."""
    files = {}
    for index in range(count):
        pixels = hashlib.shake_256(json.dumps([number, index]).encode()).digest(28 * 28)
        content = io.BytesIO()
        Image.frombytes("L", (28, 28), pixels).save(content, "PNG")
        files[f"{index:03}.png"] = content.getvalue()
    return files


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a zip archive of files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return content.getvalue()
