"""A service that answers `/readyz` and nothing else, and sends heartbeats."""

import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from snf_worker.process_setup import beat
from snf_worker.settings import load_settings


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


def stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def keep_beating() -> None:
    while not threading.Event().wait(0.1):
        beat()


if __name__ == "__main__":
    threading.Thread(target=keep_beating, daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    settings = load_settings()
    ThreadingHTTPServer((settings.host, settings.port), Handler).serve_forever()
