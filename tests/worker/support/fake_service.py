"""A service that answers `/readyz` and nothing else."""

import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from worker.settings import load_settings


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


def stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    settings = load_settings()
    ThreadingHTTPServer((settings.host, settings.port), Handler).serve_forever()
