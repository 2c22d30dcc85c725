"""A real HTTP server that answers what a test has written down, one request after the other."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from snf_client import Retries
from tests.support.http_server import Server

READY = {"status": "ready", "models": {}, "failed": {}, "jobs": "ok", "queue": {}}
QUICK = Retries(attempts=4, seconds=20, first_pause=0.01, longest_pause=0.05)


@dataclass
class Answer:
    """What is sent; `cut` ends the connection after the body, though more was promised; `before` is called first."""

    status: int = 200
    body: Any = field(default_factory=lambda: READY)
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    before: Callable[[], object] | None = None

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


DROPPED = None
"""The connection is closed without a word."""


def problem(status: int, slug: str, *, headers: dict[str, str] | None = None, **members: Any) -> Answer:
    body = {"type": slug, "title": slug.title(), "status": status, "detail": "so it is", "instance": "/x", **members}
    return Answer(status, body, headers or {})


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    url: str
    requests: list[Request]


@contextmanager
def scripted(*answers: Answer | None) -> Iterator[Scripted]:
    """Serves the answers in their order; a request too many gets a 500."""
    left = list(answers)
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self._chunks() if "Transfer-Encoding" in self.headers else self._whole()
            requests.append(Request(self.command, self.path, dict(self.headers), body))
            answer = left.pop(0) if left else Answer(500, {})
            self.close_connection = answer is None or answer.cut
            if answer is None:
                return
            if answer.before is not None:
                answer.before()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content) + answer.cut))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class calls them so

        def _whole(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _chunks(self) -> bytes:
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield Scripted(f"http://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
