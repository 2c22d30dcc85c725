"""What a greedy client does to the service on a port with a model, until it is ended."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.raw_http import Connections, form, request

Way = Callable[[int, str], Awaitable[None]]
MIB = 2**20
AGAIN_S = 0.2
"""Time after which a client that was refused or cut off comes again."""
AFTER_REFUSAL_S = 0.05
"""Pause after a 429: a loop that only collects refusals as fast as it can is another way than those meant here."""
LEAVES_AFTER_S = 0.3
ADDRESS, OTHER_ADDRESSES = "127.0.0.1", ("127.0.0.11", "127.0.0.12")
SIDE = 10_000
"""Side of an image of the pixel limit."""
SMALL_SIDE = 1440
"""Side of the largest image that shares its threads with small ones."""
MAX_SCANS = 64


@cache
def announce() -> None:
    """Say, once, on standard output that requests are sent from now on."""
    print("sending", flush=True)


async def opened(port: int, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a new connection that has sent something."""
    announce()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**10)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def again_and_again(visit: Callable[[], Awaitable[None]], clients: int = 1) -> None:
    """Make visits from as many clients at once, each over and over."""

    async def client() -> None:
        while True:
            with suppress(OSError):
                await visit()
            await asyncio.sleep(AGAIN_S)

    await asyncio.gather(*(client() for _ in range(clients)))


async def until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(2**16):
        pass


def head(path: str, kind: str, size: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nX-Timeout-Ms: 600000\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()


async def send_until_closed(port: int, first: bytes, piece: bytes, most: int) -> None:
    """Send a piece over and over, at most so many bytes, while the service takes them."""
    reader, writer = await opened(port, first)
    try:
        sent = 0
        while sent < most and not reader.at_eof():
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        await until_closed(reader)
    finally:
        writer.transport.abort()


def held(first: Callable[[str], bytes], clients: int, hold: Callable[[asyncio.StreamReader, Any], Any]) -> Way:
    """Return the way that sends something on each connection, then waits for ``hold``."""

    async def way(port: int, model: str) -> None:
        async def visit() -> None:
            reader, writer = await opened(port, first(model))
            try:
                await hold(reader, writer)
            finally:
                writer.transport.abort()

        await again_and_again(visit, clients)

    return way


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    closed = asyncio.ensure_future(until_closed(reader))
    while not closed.done():
        await asyncio.wait([closed], timeout=20)
        writer.write(b"x")


async def bodies_and_silence(port: int, model: str) -> None:
    first = head(f"/v1/models/{model}/score", "image/png", 256 * MIB)
    await again_and_again(lambda: send_until_closed(port, first, bytes(MIB), 255 * MIB), 3)


def headers(first: bytes, piece: bytes, most: int) -> Way:
    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + first
    return lambda port, _model: again_and_again(lambda: send_until_closed(port, start, piece, most))


SOCKETS: dict[str, Way] = {
    "255 of 256 MiB, then silence": bodies_and_silence,
    "a byte in 20 s on six uploads": held(
        lambda _model: head("/v1/datasets", "multipart/form-data; boundary=x", MIB) + b"--x", 6, trickle
    ),
    "300 MB of headers": headers(b"", (b"X-Some: " + b"a" * 56 + b"\r\n") * 4000, 300_000_000),
    "an endless header": headers(b"X-Some: ", b"a" * 2**16, 2**40),
    "2,000 half-open connections": held(
        lambda _model: b"GET /healthz HTTP/1.1\r\nHost: ", 2000, lambda reader, _writer: until_closed(reader)
    ),
    "100 readers that do not read": held(
        lambda model: f"GET /v1/models/{model}/artifact HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        100,
        lambda _reader, _writer: asyncio.sleep(90),
    ),
}


async def take_all(port: int, content: bytes, at_once: int, addresses: Sequence[str] = (ADDRESS,)) -> None:
    """Send a request over and over, as many at once from each address."""
    announce()

    async def client(address: str) -> None:
        connections = Connections(port, address)
        while True:
            with suppress(OSError):
                if (await connections.ask(content)).status != 429:
                    continue
            await asyncio.sleep(AFTER_REFUSAL_S)

    await asyncio.gather(*(client(address) for address in addresses for _ in range(at_once)))


def scores(count: int, query: str, at_once: int, addresses: Sequence[str] = (ADDRESS,)) -> Way:
    """Return the way that has an array of so many images scored, some of them several times."""

    async def way(port: int, model: str) -> None:
        path = f"/v1/models/{model}/samples?n={min(count, 32)}&seed=1&format=npy"
        images = np.load(io.BytesIO((await Connections(port).ask(request("GET", path))).body))
        body = io.BytesIO()
        np.save(body, np.concatenate([images] * -(-count // len(images)))[:count])
        content = request("POST", f"/v1/models/{model}/score{query}", body.getvalue(), "application/x-npy")
        await take_all(port, content, at_once, addresses)

    return way


def gets(rest: str, at_once: int) -> Way:
    return lambda port, model: take_all(port, request("GET", f"/v1/models/{model}/{rest}"), at_once)


SCORING: dict[str, Way] = {
    "256 samples with likelihoods": gets("samples?n=256&format=json", 2),
    "256 samples as a PNG grid": gets("samples?n=256&format=png", 4),
    "256 samples as a zip": gets("samples?n=256&format=zip", 4),
    "64 explanations": scores(64, "?explain=true", 4),
    "8 images of 256 draws": scores(8, "?draws=256", 2),
    "arrays of 1,024 images from three addresses": scores(1024, "", 2, (ADDRESS, *OTHER_ADDRESSES)),
    "arrays of 1,024 images from one address": scores(1024, "", 8),
    "audits of 16 images": gets("audit?n=16", 4),
    "64 single images at once": scores(1, "", 64),
}


def files(make: Callable[[], Sequence[bytes]], at_once: int = 4, *, leave: bool = False) -> Way:
    """Return the way that has the same files scored, over and over, and may leave before the answer."""

    async def way(port: int, model: str) -> None:
        content = request("POST", f"/v1/models/{model}/score", *form(make()))

        async def visit() -> None:
            _reader, writer = await opened(port, content)
            await asyncio.sleep(LEAVES_AFTER_S)
            writer.transport.abort()

        await (again_and_again(visit, at_once) if leave else take_all(port, content, at_once))

    return way


def upload(make: Callable[[], bytes]) -> Way:
    """Return the way that uploads a file as a dataset, over and over."""
    return lambda port, _model: take_all(port, request("POST", "/v1/datasets", *form([make()], "file")), 2)


def flat(side: int, kind: str, **settings: Any) -> bytes:
    """Return an image file of one colour."""
    content = io.BytesIO()
    Image.new("L", (side, side)).save(content, kind, **settings)
    return content.getvalue()


def run_length_bmp() -> bytes:
    """Return a BMP file of 17 KB and 16 megapixels whose rows have one run each, and are filled byte by byte."""
    side = 4096
    body = b"\1\7\0\0" * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 2835, 2835, 256, 256)
    return struct.pack("<2sIHHI", b"BM", 1078 + len(body), 0, 0, 1078) + header + bytes(1024) + body


def flat_jpeg(side: int, scans: int) -> bytes:
    """Return a progressive JPEG file that refines its last coefficients in as many scans of few bytes."""
    data = flat(side, "JPEG", progressive=True)
    first, last, end = data.index(b"\xff\xda"), data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:last] + data[last:end] * (scans - data.count(b"\xff\xda", first) + 1) + data[end:]


def tiff_of_a_large_tile() -> bytes:
    """Return a TIFF file of 8x8 pixels in a tile of 16384x16384."""
    data = zlib.compress(bytes(2**28), 9)
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**14, 323: 2**14, 324: 8, 325: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + fields + bytes(4)


def gif_of_blocks() -> bytes:
    """Return a GIF file of 2 MB whose comment is in blocks of one byte."""
    data = flat(16, "GIF")
    return data[:13] + b"!\xfe" + b"\1a" * 1_000_000 + b"\0" + data[13:]


def png_of_chunks() -> bytes:
    """Return a PNG file of 2 MB in chunks without content."""
    data = flat(16, "PNG")
    start = data.index(b"IDAT") - 4
    return data[:start] + (bytes(4) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))) * 170_000 + data[start:]


def zip_of_entries(count: int) -> bytes:
    """Return a zip of empty entries, whose end record cannot hold their number."""
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 7) + bytes(16)
    directory = b"".join(b"%b%07d" % (entry, number) for number in range(count))
    said = count & 0xFFFF
    return b"PK\3\4" + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, said, said, len(directory), 0, 0)


DECODING: dict[str, Way] = {
    "files: 40 run-length BMP of 17 KB": files(lambda: [run_length_bmp()] * 40),
    "files: JPEG of 6,000 scans, left after 0.3 s": files(lambda: [flat_jpeg(3000, 6000)], 8, leave=True),
    "files: 2 JPEG of 64 scans, 100 megapixels": files(lambda: [flat_jpeg(SIDE, MAX_SCANS)] * 2),
    "files: the same, left after 0.3 s": files(lambda: [flat_jpeg(SIDE, MAX_SCANS)] * 2, 8, leave=True),
    "files: 32 JPEG of 64 scans, 2 megapixels": files(lambda: [flat_jpeg(SMALL_SIDE, MAX_SCANS)] * 32),
    "files: 2 PNG of 100 megapixels": files(lambda: [flat(SIDE, "PNG")] * 2),
    "files: 2 WebP of 100 megapixels": files(lambda: [flat(SIDE, "WEBP", lossless=True)] * 2),
    "files: 40 TIFF of 8x8 pixels in a tile of 16384x16384": files(lambda: [tiff_of_a_large_tile()] * 40),
    "files: 8 GIF, 8 PNG of many parts": files(lambda: [gif_of_blocks(), png_of_chunks()] * 8, 2),
    "files: a zip of a million entries too many": upload(lambda: zip_of_entries(2_000_000)),
}
"""Files whose decoding takes long, for a model that resizes images."""
WAYS = {**SOCKETS, **SCORING, **DECODING}
