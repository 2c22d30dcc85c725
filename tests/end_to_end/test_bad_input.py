"""What cannot be scored gets its clear problem, and the service goes on."""

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.support.service import files, score_one, serving
from tests.support.paths import DIGITS


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG whose header says 20000x20000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def colour() -> bytes:
    return png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)))


def floating_point() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((28, 28), dtype=np.float32)).save(file, format="TIFF")
    return file.getvalue()


CASES: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("empty.png", lambda: b"", "empty-image", "0 bytes"),
    ("text.png", lambda: b"this is no image\n" * 20, "undecodable-image", "PNG"),
    ("cut.png", lambda: DIGITS[0].read_bytes()[:-60], "truncated-image", ""),
    ("float.tif", floating_point, "unsupported-image", "floating-point numbers"),
    ("bomb.png", bomb, "image-too-large", "pixels"),
    ("colour.png", colour, "wrong-image-shape", "1 channel"),
    ("large.png", lambda: png(Image.new("L", (64, 64))), "wrong-image-shape", "64x64"),
]


def test_none_scored(house: httpx.Client) -> None:
    form = [("images", (name, make(), "image/png")) for name, make, _, _ in CASES]
    answer = house.post("/v1/models/digits/score", files=form)
    assert answer.status_code == 422
    body = answer.json()
    assert body["type"] == "no-image-scored"
    assert [one["error"]["type"] for one in body["results"]] == [slug for _, _, slug, _ in CASES]
    assert [one["pointer"] for one in body["errors"]] == [f"/body/images/{i}" for i in range(len(CASES))]


@pytest.mark.parametrize(
    ("options", "status", "slug"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported-media-type"),
        ({"content": b"x"}, 415, "unsupported-media-type"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "malformed-form"),
        ({"files": {"file": ("a.png", DIGITS[0].read_bytes())}}, 422, "invalid-request"),
        ({"files": {"images": (None, "text")}}, 422, "invalid-request"),
        ({"content": b"x", "headers": {"content-type": "application/x-npy"}}, 422, "undecodable-image"),
    ],
)
def test_bad_bodies(house: httpx.Client, options: dict[str, object], status: int, slug: str) -> None:
    answer = house.post("/v1/models/digits/score", **options)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["type"]) == (status, slug)


def test_a_deadline_that_passes(house: httpx.Client) -> None:
    answer = house.post(
        "/v1/models/digits/score",
        params={"draws": 256},
        files=files(*DIGITS[:3]),
        headers={"x-timeout-ms": "5"},
    )
    assert (answer.status_code, answer.json()["type"]) == (504, "deadline-exceeded")
    score_one(house, "digits", DIGITS[0].read_bytes())


def test_a_full_queue_and_too_many_images(home: Path) -> None:
    limits = {"queue_images": 1024, "max_images_per_request": 8, "max_upload_bytes": 100_000}
    with serving(home, shipped=False, measured=True, **limits) as client:
        many = client.post("/v1/models/digits/score", files=files(*DIGITS[:9]))
        assert (many.status_code, many.json()["type"]) == (413, "too-many-images")
        large = client.post("/v1/models/digits/score", content=bytes(200_000), headers={"content-type": "image/png"})
        assert (large.status_code, large.json()["type"]) == (413, "content-too-large")
        # Eight images of the model's size, and no more, fit in an array's body.
        array = client.post(
            "/v1/models/digits/score", content=bytes(20_000), headers={"content-type": "application/x-npy"}
        )
        assert (array.status_code, array.json()["type"]) == (413, "content-too-large")
        query = {"draws": 256}
        drawn = client.post("/v1/models/digits/score", params=query, files=files(*DIGITS[:3]))
        assert (drawn.status_code, drawn.json()["type"]) == (413, "too-many-images"), "an image counts once a draw"

        def ask(_: int) -> httpx.Response:
            query: dict[str, str | int] = {"draws": 256}
            return client.post("/v1/models/digits/score", params=query, files=files(*DIGITS[:2]))

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        refused = [one for one in answers if one.status_code == 429]
        assert refused
        assert {one.status_code for one in answers} == {200, 429}
        assert {one.json()["type"] for one in refused} == {"queue-full"}
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        score_one(client, "digits", DIGITS[0].read_bytes())
        assert client.get("/readyz").json()["queue"] == {"images": 0, "capacity": 1024}
