from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from dataclasses import dataclass
from typing import Protocol

from snf_app.access.callers import network_of
from snf_app.http.errors import Problem
from snf_app.http.shares import FairShares
from snf_worker.settings import Settings

RESERVED_FILES = 256
"""File descriptors that are kept for everything but connections."""
FILES_EACH = 4
"""File descriptors for a connection and the files that are sent through it."""
MIN_CONNECTIONS = 16
RETRY_S = 5
"""Seconds after which a refused client may try again."""

log = logging.getLogger(__name__)


class TimedConnection(Protocol):
    """Interface of a network connection that can close itself when one of its timeouts has passed."""

    def check(self, now: float) -> None:
        """Close the connection if one of its timeouts has passed at ``now``, the event loop's time."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on the number of open HTTP connections, and their timeouts in seconds."""

    most: int  # connections at once; an address gets at most half
    header_s: float  # for the headers of a request
    send_s: float  # within which a client must read some of its answer
    proxies: tuple[str, ...] = ()  # trusted, as they connect for many clients

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Return the limits of the settings, with fewer connections if the process may not open enough files."""
        most = min(settings.max_connections, _room(settings.max_connections))
        if most < settings.max_connections:
            log.warning("the limit on open files allows %d connections of %d", most, settings.max_connections)
        return cls(most, settings.header_timeout_s, settings.send_timeout_s, settings.trusted_proxies)


class ConnectionWatch:
    """Register of open connections that limits them, in total and per address, and checks their timeouts."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._shares = FairShares(limits.most)
        self._open: dict[TimedConnection, str] = {}
        self._period = min(1.0, limits.header_s / 4, limits.send_s / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        self._proxies = [ipaddress.ip_network(proxy) for proxy in limits.proxies]

    def admit(self, connection: TimedConnection, host: str) -> Problem | None:
        """Register a connection of an IP address, or return a 429 or 503 ``Problem`` if too many are open."""
        # Behind a proxy are many clients: each of its connections counts by itself.
        address = f"proxy {id(connection)}" if self._is_proxy(host) else network_of(host)
        if not self._shares.take(address):
            self._refused += 1
            return _too_many(self.limits.most, alone=self._shares.free > 0)
        self._open[connection] = address
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._check)
        return None

    def release(self, connection: TimedConnection) -> None:
        """Remove a closed connection; an unknown one is ignored."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._shares.give_back(address)

    def _is_proxy(self, host: str) -> bool:
        if not self._proxies:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in proxy for proxy in self._proxies)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._period, self._check) if self._open else None
        if self._refused:
            log.warning(
                "%d connections were refused; %d of %d are open", self._refused, len(self._open), self.limits.most
            )
            self._refused = 0
        now = loop.time()
        for connection in list(self._open):
            connection.check(now)


def _too_many(most: int, *, alone: bool) -> Problem:
    headers = {"Retry-After": str(RETRY_S)}
    if alone:
        detail = f"one address may hold at most as many of {most} connections as stay free for others; close some"
        return Problem(429, "too-many-connections", "Too many connections", detail, headers=headers)
    detail = f"all {most} connections are open; try again in about {RETRY_S} s"
    return Problem(503, "too-many-connections", "Too many connections", detail, headers=headers)


def _room(wanted: int) -> int:
    """Return how many connections the limit on open files allows, after raising it as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * FILES_EACH + RESERVED_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    except (OSError, ValueError) as error:
        log.warning("the limit on open files cannot be raised from %d to %d: %s", soft, raised, error)
    return max(MIN_CONNECTIONS, (soft - RESERVED_FILES) // FILES_EACH)
