"""The service's process: `python -m app.server`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from app.http.connection_watch import ConnectionLimits, ConnectionWatch
from app.http.connections import Connection
from app.main import Service, create_app
from worker.gc_tuning import relax_gc
from worker.keys.first_key import ensure_keys
from worker.log_setup import configure_logging
from worker.settings import Settings, load_settings

SWITCH_S = 0.001
"""How long a thread of Python may keep another one waiting. The scoring thread comes back from every operation of the
flow to ask for its turn; with Python's own 5 ms a busy event loop made it wait longer than it computed."""

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A server that says it is draining as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: Service) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes that the service drains, then lets requests in flight finish."""
        self._app.draining.set()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles INT and TERM while serving; the original raises them again at its end, which is no clean exit."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(settings: Settings) -> int:
    """Serves until TERM or INT; answers 0 after a clean stop, 3 where the service could not start."""
    sys.setswitchinterval(SWITCH_S)
    ensure_keys(settings, log.warning)
    app = create_app(settings)
    watch = ConnectionWatch(ConnectionLimits.of(settings))
    config = uvicorn.Config(
        app,
        # Called for each connection, as the class would be.
        http=cast(type[asyncio.Protocol], partial(Connection, watch)),
        ws="none",
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level=settings.log_level.lower(),
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = Server(config, app)
    server.run()
    return 0 if server.started else 3


def main() -> int:
    """Entry point of `python -m app.server`."""
    relax_gc()
    settings = load_settings()
    configure_logging(settings, "service")
    return serve(settings)


if __name__ == "__main__":
    raise SystemExit(main())
