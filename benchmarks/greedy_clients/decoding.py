"""Greedy clients that send image files whose decoding takes long, to a model that resizes images."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.greedy_clients.scoring import take_all
from benchmarks.greedy_clients.sockets import Way, again_and_again, opened
from benchmarks.raw_http import request
from tests.models.datasets.upload_files import zip_of_entries
from tests.support.image_files import encoded, jpeg_of_scans, png

BOUNDARY = "b0undary"
LEAVES_AFTER_S = 0.3
SIDE = 10_000
"""Side of an image of the pixel limit."""
SMALL_SIDE = 1440
"""Side of the largest image that shares its threads with small ones."""
MAX_SCANS = 64


def form(files: Sequence[bytes], field: str = "images") -> tuple[bytes, str]:
    """Return the body and the content type of a form of files."""
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{number}"\r\n\r\n'.encode() + file
        for number, file in enumerate(files)
    )
    return b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def files(make: Callable[[], Sequence[bytes]], at_once: int = 4) -> Way:
    """Return the way that has the same files scored, over and over."""

    async def way(port: int, model: str) -> None:
        body, kind = form(make())
        await take_all(port, request("POST", f"/v1/models/{model}/score", body, kind), at_once)

    return way


def files_of_clients_that_leave(make: Callable[[], Sequence[bytes]], at_once: int = 8) -> Way:
    """Return the way that sends the files, and leaves before the answer."""

    async def way(port: int, model: str) -> None:
        body, kind = form(make())
        content = request("POST", f"/v1/models/{model}/score", body, kind)

        async def visit() -> None:
            _reader, writer = await opened(port, content)
            await asyncio.sleep(LEAVES_AFTER_S)
            writer.transport.abort()

        await again_and_again(visit, at_once)

    return way


def upload(make: Callable[[], bytes], at_once: int = 2) -> Way:
    """Return the way that uploads a file as a dataset, over and over."""

    def way(port: int, _model: str) -> Awaitable[None]:
        body, kind = form([make()], "file")
        return take_all(port, request("POST", "/v1/datasets", body, kind), at_once)

    return way


def run_length_bmp() -> bytes:
    """A BMP file of 17 KB and 16 megapixels whose rows have one run each, and are filled byte by byte."""
    side = 4096
    body = b"\1\7\0\0" * side + b"\0\1"
    palette = bytes(1024)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 2835, 2835, 256, 256)
    return struct.pack("<2sIHHI", b"BM", 1078 + len(body), 0, 0, 1078) + header + palette + body


def flat_jpeg(side: int, scans: int) -> bytes:
    """A JPEG file whose scans have few bytes."""
    return jpeg_of_scans(np.zeros((side, side), np.uint8), scans)


def flat(side: int, kind: str, **settings: Any) -> bytes:
    """An image of one colour."""
    return encoded(np.zeros((side, side), np.uint8), kind, **settings)


def tiff_of_a_large_tile() -> bytes:
    """A TIFF file of 8x8 pixels in a tile of 16384x16384."""
    data = zlib.compress(bytes(2**28), 9)
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**14, 323: 2**14, 324: 8, 325: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + fields + bytes(4)


def gif_of_blocks() -> bytes:
    """A GIF file of 2 MB whose comment is in blocks of one byte."""
    content = io.BytesIO()
    Image.new("P", (16, 16)).save(content, "GIF")
    return content.getvalue()[:13] + b"!\xfe" + b"\1a" * 1_000_000 + b"\0" + content.getvalue()[13:]


def png_of_chunks() -> bytes:
    """A PNG file of 2 MB in chunks without content."""
    data = png(16, 16, 8, 0, bytes(17 * 16))
    start = data.index(b"IDAT") - 4
    return data[:start] + (bytes(4) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))) * 170_000 + data[start:]


WAYS: dict[str, Way] = {
    "files: 40 run-length BMP of 17 KB": files(lambda: [run_length_bmp()] * 40),
    "files: JPEG of 6,000 scans, left after 0.3 s": files_of_clients_that_leave(lambda: [flat_jpeg(3000, 6000)]),
    "files: 2 JPEG of 64 scans, 100 megapixels": files(lambda: [flat_jpeg(SIDE, MAX_SCANS)] * 2),
    "files: the same, left after 0.3 s": files_of_clients_that_leave(lambda: [flat_jpeg(SIDE, MAX_SCANS)] * 2),
    "files: 32 JPEG of 64 scans, 2 megapixels": files(lambda: [flat_jpeg(SMALL_SIDE, MAX_SCANS)] * 32),
    "files: 2 PNG of 100 megapixels": files(lambda: [flat(SIDE, "PNG")] * 2),
    "files: 2 WebP of 100 megapixels": files(lambda: [flat(SIDE, "WEBP", lossless=True)] * 2),
    "files: 40 TIFF of 8x8 pixels in a tile of 16384x16384": files(lambda: [tiff_of_a_large_tile()] * 40),
    "files: 8 GIF, 8 PNG of many parts": files(lambda: [gif_of_blocks(), png_of_chunks()] * 8, 2),
    "files: a zip of a million entries too many": upload(lambda: b"PK\3\4" + zip_of_entries(2_000_000)),
}
