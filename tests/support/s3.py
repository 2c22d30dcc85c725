"""A real S3 server in a process of its own, and a proxy before it that fails a share of the requests."""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx

from snf_models.locations.location import Location
from tests.support.http_server import Server
from tests.support.ports import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
FAULTS = ("500", "drop", "cut")


@dataclass(frozen=True)
class S3Server:
    """An S3 server: its URL, and the environment in which processes reach it."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that name the server and keys that it takes."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}

    def bucket(self, name: str) -> Location:
        """Create a bucket and return its location."""
        assert httpx.put(f"{self.url}/{name}").status_code == 200
        return Location(f"s3://{name}")


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Run moto's S3 server in a process of its own."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        )
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"{url}/moto-api/")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield S3Server(url)
        finally:
            process.kill()
            process.wait()


@dataclass
class FaultyProxy:
    """A proxy before a server: which share of requests fails, and how many failed, by kind."""

    share: float = 0.1
    seed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    _tries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str, span: str) -> str | None:
        """Count a request and return how it fails; None if it is served."""
        with self._lock:
            self.requests[method] += 1
            self._tries[method, path, span] += 1
            drawn = f"{self.seed} {method} {path} {span} {self._tries[method, path, span]}"
            number = int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8], "big")
            if number / 2**64 >= self.share:
                return None
            fault = FAULTS[number % len(FAULTS)]
            self.failed[fault] += 1
            return fault


@contextmanager
def faulty_server(server: S3Server, share: float = 0.1, seed: int = 0) -> Iterator[tuple[S3Server, FaultyProxy]]:
    """Run a proxy that fails a share of the requests to a server."""
    proxy = FaultyProxy(share, seed)
    target = server.url.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault(self.command, self.path, self.headers.get("Range") or "")
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "500":
                self._send(500, {}, b"<Error><Code>InternalError</Code><Message>We failed</Message></Error>")
                return
            connection = http.client.HTTPConnection(target, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            self._send(answer.status, dict(answer.headers), data, cut=fault == "cut")

        def _send(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
            data = b"" if self.command == "HEAD" else data  # an answer to HEAD has no body
            self.send_response_only(status)
            length = headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if cut:
                data, self.close_connection = data[: len(data) // 2], True
            self.wfile.write(data)
            with proxy._lock:
                proxy.sent_bytes += len(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    http_server = Server(("127.0.0.1", 0), Handler)
    http_server.daemon_threads = True
    thread = threading.Thread(target=http_server.serve_forever)
    thread.start()
    try:
        yield S3Server(f"http://127.0.0.1:{http_server.server_address[1]}"), proxy
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()
