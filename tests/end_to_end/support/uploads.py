"""Uploads of datasets as the end-to-end tests make them, whole or by hand, and what they leave on disk."""

import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.models.datasets.upload_files import pngs, zipped

BOUNDARY = "together"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
GOOD = ("a.zip", zipped(pngs(20)))


def upload(client: httpx.Client, name: str, *content: tuple[str, bytes]) -> httpx.Response:
    return client.post("/v1/datasets", data={"name": name}, files=[("file", one) for one in content])


@contextmanager
def half_a_post(client: httpx.Client, path: str, body: bytes, kind: str = "image/png") -> Iterator[socket.socket]:
    """A request that declares one byte more than it sends."""
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        yield connection


def left(home: Path) -> list[str]:
    """What lies in the datasets' folder besides complete datasets and the lock."""
    found = [path.name for path in (*(home / "datasets").glob(".*"), *(home / "uploads").iterdir())]
    return sorted({*found} - {"lock"})


def part(name: str, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()


def big_tar(size: int) -> Iterator[bytes]:
    """A tar of 20 images and one file of `size` bytes, a whole number of MiB."""
    for name, data in pngs(20).items():
        yield member(name, len(data)) + data + bytes(-len(data) % 512)
    yield member("large.bin", size)
    for _ in range(size // 2**20):
        yield bytes(2**20)
    yield bytes(1024)


def member(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()


def begun(name: str) -> bytes:
    """A form up to where the content of its file begins."""
    return part("name") + name.encode() + b"\r\n" + part("file", "a.tar")


def form_of(name: str, content: Iterator[bytes]) -> Iterator[bytes]:
    yield begun(name)
    yield from content
    yield f"\r\n--{BOUNDARY}--\r\n".encode()
