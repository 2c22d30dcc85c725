"""The calls by which `backend.py` provokes errors of the service, by the type of the problem."""

from __future__ import annotations

import io
import socket
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image

MODEL = "/v1/models/mnist-snf-glow"
SCORE = f"{MODEL}/score"
PNG = {"content-type": "image/png"}
Answer = httpx.Response
TRAINING: dict[str, Any] = {"type": "train", "preset": "snf-glow-tiny", "dataset": "mnist-mini", "model": "long"}
LIMITS = {
    "SNF_ENGINE": "torch",
    "SNF_ALLOWED_LOCATIONS": "file:///nothing",
    "SNF_MAX_UPLOAD_BYTES": "100000",
    "SNF_MAX_BYTES_IN_FLIGHT": "120000",
    "SNF_MAX_IMAGES_PER_REQUEST": "4",
    "SNF_MAX_DATASET_UPLOADS": "1",
    "SNF_MAX_EVENT_STREAMS": "1",
    "SNF_MAX_CONNECTIONS": "24",
    "SNF_HEADER_TIMEOUT_S": "2",
}
"""Settings of the service: an engine that starts at once, and limits that are easily reached."""


def png(side: int = 28, seed: int = 0) -> bytes:
    """Return a PNG file of noise."""
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def large_png(side: int = 20_000) -> bytes:
    """Return a PNG file whose header gives a side that its content does not have."""
    content = bytearray(png())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def score(http: httpx.Client, content: bytes, kind: str = "image/png", **query: Any) -> Answer:
    """Send one image."""
    return http.post(SCORE, content=content, headers={"content-type": kind}, params=query)


def submit(http: httpx.Client, headers: dict[str, str] | None = None, **changes: Any) -> Answer:
    """Submit a training."""
    return http.post("/v1/jobs", json={**TRAINING, **changes}, headers=headers)


def upload(http: httpx.Client, name: str, count: int) -> Answer:
    """Upload images as a dataset."""
    files = [("file", (f"{number}.png", png(seed=number))) for number in range(count)]
    return http.post("/v1/datasets", data={"name": name}, files=files)


def packed(http: httpx.Client, content: bytes) -> Answer:
    """Upload a file as a dataset."""
    return http.post("/v1/datasets", data={"name": "packed"}, files={"file": ("a", content)})


def raw(http: httpx.Client, text: bytes) -> Answer:
    """Send bytes over a connection of its own, and read the answer."""
    with open_socket(http, text) as connection:
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                break
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:])]
    return Answer(int(lines[0].split()[1]), headers=headers, content=body)


@contextmanager
def open_socket(http: httpx.Client, text: bytes) -> Iterator[socket.socket]:
    """Open a connection and send bytes."""
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=30) as connection:
        connection.sendall(text)
        yield connection


def unfinished_post(path: str, kind: str, body: bytes) -> bytes:
    """Return a request that lacks its last byte."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    return head.encode() + body


def beside(http: httpx.Client, *open_requests: bytes, call: Callable[[], Answer]) -> Answer:
    """Call while other requests are open."""
    with ExitStack() as stack:
        for text in open_requests:
            stack.enter_context(open_socket(http, text))
        time.sleep(0.7)
        return call()


def tar(name: str, content: bytes) -> bytes:
    """Return a tar archive with one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """Return an array as a file of NumPy."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def refer(http: httpx.Client, location: str) -> Answer:
    """Refer to the images at a location."""
    return http.post("/v1/datasets/references", json={"name": "referred", "location": location})


def provocations(http: httpx.Client, job: str) -> dict[str, Callable[[], Answer]]:
    """Return the calls that a service without keys refuses.

    Args:
        http: A connection to the service.
        job: A training of the dataset ``cells`` that has not ended.
    """
    form = "multipart/form-data; boundary=x"
    opened = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    events = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    get = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    numpy_type = "application/x-npy"

    def delete_retried() -> Answer:
        first = submit(http, device="cuda").json()["id"]  # which no worker here has, so it waits
        http.post(f"/v1/jobs/{first}/cancel").raise_for_status()
        again = http.post(f"/v1/jobs/{first}/retry").json()["id"]
        answer = http.delete(f"/v1/jobs/{first}")
        http.post(f"/v1/jobs/{again}/cancel").raise_for_status()
        return answer

    return {
        "invalid-host": lambda: raw(http, b"GET /v1/me HTTP/1.1\r\nHost: a b\r\n\r\n"),
        "host-not-allowed": lambda: http.get("/v1/me", headers={"host": "example.org"}),
        "cross-origin": lambda: http.delete("/v1/datasets/cells", headers={"origin": "http://example.org"}),
        "malformed-request": lambda: raw(http, b"no http\r\n\r\n"),
        "headers-too-large": lambda: raw(http, f"{get}X: {'x' * 70_000}\r\n\r\n".encode()),
        "request-timeout": lambda: raw(http, get.encode()),
        "malformed-form": lambda: http.post("/v1/datasets", content=b"no form", headers={"content-type": form}),
        "malformed-json": lambda: http.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}),
        "not-found": lambda: http.get("/v1/nothing"),
        "method-not-allowed": lambda: http.post("/v1/presets"),
        "unsupported-media-type": lambda: score(http, b"text", "text/plain"),
        "invalid-request": lambda: score(http, png(), alpha=2),
        "alpha-unattainable": lambda: score(http, png(), alpha=1e-9),
        "content-too-large": lambda: score(http, bytes(100_001)),
        "too-many-requests": lambda: beside(
            http, unfinished_post(SCORE, "image/png", bytes(90_000)), call=lambda: score(http, bytes(50_000))
        ),
        "too-many-images": lambda: http.post(SCORE, files=[("images", ("a.png", png())) for _ in range(5)]),
        "too-many-uploads": lambda: beside(
            http, unfinished_post("/v1/datasets", form, opened), call=lambda: upload(http, "more", 20)
        ),
        "too-many-event-streams": lambda: beside(http, events, call=lambda: http.get(f"/v1/jobs/{job}/events")),
        "too-many-connections": lambda: beside(
            http, *[get.encode()] * 12, call=lambda: raw(http, f"{get}\r\n".encode())
        ),
        "deadline-exceeded": lambda: http.post(
            SCORE, content=png(), headers={**PNG, "x-timeout-ms": "1"}, params={"draws": 16}
        ),
        "no-image-scored": lambda: http.post(SCORE, files=[("images", ("a.png", b"no image"))] * 2),
        "empty-image": lambda: score(http, b""),
        "undecodable-image": lambda: score(http, b"no image"),
        "truncated-image": lambda: score(http, png()[:200]),
        "unsupported-image": lambda: score(http, npy(np.zeros((1, 28, 28))), numpy_type),
        "image-too-large": lambda: score(http, large_png()),
        "wrong-image-shape": lambda: score(http, png(20)),
        "model-not-found": lambda: http.get("/v1/models/nobody"),
        "calibration-not-found": lambda: http.get(f"{MODEL}/calibrations/9"),
        "limit-not-found": lambda: http.get(f"{MODEL}/limits/9"),
        "drift-not-found": lambda: http.delete(f"{MODEL}/drift/no-such-source"),
        "model-read-only": lambda: http.delete(MODEL),
        "model-in-use": lambda: http.delete("/v1/models/long"),
        "model-refused": lambda: http.post(
            "/v1/models", params={"name": "mine"}, content=tar("a", b"a"), headers={"content-type": "application/x-tar"}
        ),
        "alias-required": lambda: http.delete(f"{MODEL}/aliases/live"),
        "dataset-not-found": lambda: http.get("/v1/datasets/nothing"),
        "contact-sheet-not-found": lambda: http.get("/v1/datasets/mnist-mini/contact-sheet"),
        "dataset-built-in": lambda: http.delete("/v1/datasets/mnist-mini"),
        "dataset-taken": lambda: upload(http, "cells", 20),
        "location-refused": lambda: refer(http, "file:///etc"),
        "location-not-found": lambda: refer(http, "file:///nothing/there"),
        "dataset-in-use": lambda: http.delete("/v1/datasets/cells"),
        "dataset-too-small": lambda: upload(http, "few", 1),
        "malformed-archive": lambda: packed(http, b"PK\x03\x04 cut off"),
        "unsafe-archive": lambda: packed(http, tar("../a.png", png())),
        "unsupported-archive": lambda: packed(http, b"7z\xbc\xaf\x27\x1c" + bytes(100)),
        "malformed-array": lambda: packed(http, npy(np.zeros(3, np.uint8))),
        "job-not-found": lambda: http.get("/v1/jobs/" + "0" * 26),
        "run-not-found": lambda: http.get("/v1/runs/" + "0" * 26),
        "job-in-use": delete_retried,
        "job-has-no-result": lambda: http.get(f"/v1/jobs/{job}/result"),
        "job-state-conflict": lambda: http.post(f"/v1/jobs/{job}/retry"),
        "sample-not-found": lambda: http.get(f"/v1/jobs/{job}/samples/999"),
        "idempotency-key-reused": lambda: [
            submit(http, {"idempotency-key": "once"}, device="cuda", parameters={"max_steps": steps})
            for steps in (1, 2)
        ][1],
    }
