"""Ports of the loopback interface."""

import socket
from contextlib import suppress
from random import SystemRandom

FOR_SERVERS = 20_000, 32_000
"""Ports below those that systems give to connections."""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing uses, and that no connection gets before a server."""
    while True:
        port = SystemRandom().randrange(*FOR_SERVERS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
