"""Callers: the senders of HTTP requests, identified by API key or by IP address.

Rate limits, fair shares and the audit log count by this identity.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from starlette.types import Scope

from worker.keys.roles import Role

SCOPE = "snf.caller"
"""Key of a request's scope that holds the authenticated ``Caller``."""


@dataclass(frozen=True)
class Caller:
    """Sender of an HTTP request, with its name, IP address and access role.

    It is named by the id of its API key or, without a key, by its IP address.

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

    @property
    def key(self) -> str | None:
        """Public id (not the secret) of the caller's API key; None for a caller without a key."""
        kind, _, id = self.name.partition(":")
        return id if kind == "key" else None


def caller_of(scope: Scope) -> Caller:
    """Return the sender of an ASGI request as a ``Caller`` with name, IP address and access role.

    It is the sender that ``Authentication`` put in the ASGI scope, or else an ``admin`` named by its IP address.
    """
    known = scope.get(SCOPE)
    if isinstance(known, Caller):
        return known
    return keyless(address_of(scope))


def keyless(address: str) -> Caller:
    """Return the ``Caller`` of a request without an API key, named by the IP address it comes from.

    Its role is ``admin``, as the service has no keys. An IPv6 address is shortened to its /64 network.
    """
    return Caller(f"address:{network_of(address)}", address, "admin")


def address_of(scope: Scope) -> str:
    """Return the client's IP address from a request's ASGI scope, or an empty string if it is unknown."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def network_of(host: str) -> str:
    """Return the /64 network of an IPv6 address as text, or an IPv4 address unchanged.

    Other text is returned unchanged. An IPv4-mapped IPv6 address becomes its IPv4 address.

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
