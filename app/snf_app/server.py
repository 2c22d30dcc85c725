"""The server process, ``python -m snf_app.server``: uvicorn with a graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from snf_app.http.connections import Connection, ConnectionWatch
from snf_app.main import Service, create_app
from snf_worker.broker.connection import runtime_folder_in_use
from snf_worker.keys import ensure_keys
from snf_worker.log_setup import configure_logging
from snf_worker.process_setup import give_back_memory, protect_home, signals_handled_by, tune_process
from snf_worker.settings import Settings, load_settings

SWITCH_S = 0.001
"""Longest time in seconds that a Python thread keeps the interpreter while another waits.

The scoring thread asks for the interpreter after every operation of a flow. With Python's default of 5 ms it waited
longer for a busy event loop than it computed.
"""

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Uvicorn server with a graceful shutdown on SIGINT or SIGTERM.

    It sets the application's ``draining`` flag at once when it receives the signal.
    """

    def __init__(self, config: uvicorn.Config, app: Service) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start a graceful shutdown after a signal: requests in progress finish, new ones are refused."""
        self._app.draining.set()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Context manager that handles SIGINT and SIGTERM while the server runs.

        It restores the old handlers at the end.

        The method of uvicorn raises the signals again at its end, so that the process would not exit cleanly.
        """
        with signals_handled_by(self.handle_exit):
            yield


def serve(settings: Settings) -> int:
    """Run the HTTP service until SIGTERM or SIGINT; return 0 after a clean stop, 3 if it could not start.

    Raises:
        BrokerStartFailed: Another user may change the runtime folder.
    """
    if (remark := protect_home(settings.home)) is not None:
        log.warning(remark)
    sys.setswitchinterval(SWITCH_S)
    ensure_keys(settings, log.warning)
    app = create_app(settings)
    watch = ConnectionWatch(settings)
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
    with runtime_folder_in_use(settings):
        server.run()
    return 0 if server.started else 3


def main() -> int:
    """Run the HTTP service with settings from the environment; return exit code 0, or 3 if it could not start."""
    tune_process()
    give_back_memory()
    settings = load_settings()
    configure_logging(settings, "service")
    return serve(settings)


if __name__ == "__main__":
    raise SystemExit(main())
