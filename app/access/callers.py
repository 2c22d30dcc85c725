"""Callers of requests: the identity by which rate limits, fair shares and the audit log count."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from starlette.types import Scope

from worker.keys.roles import Role

SCOPE = "snf.caller"
"""Key of a request's scope that holds the authenticated ``Caller``."""


@dataclass(frozen=True)
class Caller:
    """The sender of an HTTP request, identified by its API key or else by its network address.

    Args:
        name: ``key:<id>`` of a caller with a key, ``address:<network>`` of a caller without.
        address: Address of the client; empty where it is not known.
        role: Role of the key; ``admin`` where the service has no keys.
        label: Name that an administrator gave the key; empty without a key.
    """

    name: str
    address: str
    role: Role
    label: str = ""


def caller_of(scope: Scope) -> Caller:
    """Return the caller of an ASGI request; without authentication, a caller identified by its address."""
    known = scope.get(SCOPE)
    if isinstance(known, Caller):
        return known
    return keyless(address_of(scope))


def keyless(address: str) -> Caller:
    """Return the caller at a network address of a service without API keys; it has the role ``admin``."""
    return Caller(f"address:{network_of(address)}", address, "admin")


def address_of(scope: Scope) -> str:
    """Return the client's IP address from the ASGI scope of a request; empty if it is not known."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def network_of(host: str) -> str:
    """Return the network by which a client is counted: its IPv4 address, or its IPv6 /64 network.

    A single machine can have all addresses of a /64 network.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
