"""Greedy clients that hold connections, bodies, places of uploads and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache

Way = Callable[[int, str], Awaitable[None]]
"""What a greedy client does to the service on a port with a model, until it is ended."""
MIB = 2**20
AGAIN_S = 0.2
"""Time after which a client that was refused or cut off comes again."""


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
    """Read and throw away what comes until the service closes."""
    while await reader.read(2**16):
        pass


def head(path: str, kind: str, size: int) -> bytes:
    """Return the head of a POST request."""
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


async def bodies_and_silence(port: int, model: str) -> None:
    """Send 255 of 256 MiB and nothing more, with the longest deadline, from three connections."""
    first = head(f"/v1/models/{model}/score", "image/png", 256 * MIB)
    await again_and_again(lambda: send_until_closed(port, first, bytes(MIB), 255 * MIB), 3)


async def trickled_uploads(port: int, _model: str) -> None:
    """Send a byte each 20 s on six uploads of datasets."""
    first = head("/v1/datasets", "multipart/form-data; boundary=x", MIB) + b"--x"

    async def visit() -> None:
        reader, writer = await opened(port, first)
        try:
            closed = asyncio.ensure_future(until_closed(reader))
            while not closed.done():
                await asyncio.wait([closed], timeout=20)
                writer.write(b"x")
        finally:
            writer.transport.abort()

    await again_and_again(visit, 6)


async def many_headers(port: int, _model: str) -> None:
    """Send 300 MB of headers on one connection."""
    line = b"X-Some: " + b"a" * 56 + b"\r\n"
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    await again_and_again(lambda: send_until_closed(port, first, line * 4000, 300_000_000))


async def endless_header(port: int, _model: str) -> None:
    """Send one header that does not end."""
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Some: "
    await again_and_again(lambda: send_until_closed(port, first, b"a" * 2**16, 2**40))


async def half_open(port: int, _model: str) -> None:
    """Hold 2,000 connections that have sent half a head."""

    async def visit() -> None:
        reader, writer = await opened(port, b"GET /healthz HTTP/1.1\r\nHost: ")
        try:
            await until_closed(reader)
        finally:
            writer.transport.abort()

    await again_and_again(visit, 2000)


async def unread_answers(port: int, model: str) -> None:
    """Ask for a whole model on 100 connections and read nothing of it."""
    first = f"GET /v1/models/{model}/artifact HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    async def visit() -> None:
        _reader, writer = await opened(port, first)
        try:
            await asyncio.sleep(90)
        finally:
            writer.transport.abort()

    await again_and_again(visit, 100)


WAYS: dict[str, Way] = {
    "255 of 256 MiB, then silence": bodies_and_silence,
    "a byte in 20 s on six uploads": trickled_uploads,
    "300 MB of headers": many_headers,
    "an endless header": endless_header,
    "2,000 half-open connections": half_open,
    "100 readers that do not read": unread_answers,
}
