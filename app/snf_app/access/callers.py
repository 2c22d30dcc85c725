"""Callers: senders of requests by API key or address, for rate limits, fair shares and the audit log."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from starlette.types import Scope

from snf_worker.keys.roles import Role

SCOPE = "snf.caller"


@dataclass(frozen=True)
class Caller:
    """Sender of an HTTP request."""

    name: str  # ``key:<id>``, or ``address:<network>`` without a key
    address: str  # empty if it is not known
    role: Role  # ``admin`` where the service has no keys
    label: str = ""  # name that an administrator gave the key

    @property
    def key(self) -> str | None:
        """Public id (not the secret) of the caller's API key; None for a caller without a key."""
        kind, _, id = self.name.partition(":")
        return id if kind == "key" else None


def caller_of(scope: Scope) -> Caller:
    """Return the sender that ``Authentication`` put into the scope, or an ``admin`` named by its address."""
    known = scope.get(SCOPE)
    if isinstance(known, Caller):
        return known
    return keyless(address_of(scope))


def keyless(address: str) -> Caller:
    """Return the ``admin`` of a service without keys, named by an IPv4 address or a /64 network."""
    return Caller(f"address:{network_of(address)}", address, "admin")


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def network_of(host: str) -> str:
    """Return the /64 network of an IPv6 address, of which a machine can have all, or other text unchanged."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
