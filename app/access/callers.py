"""Who sends a request: what limits, shares and the audit log count by."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from starlette.types import Scope

from worker.keys.roles import Role

SCOPE = "snf.caller"
"""Where authentication leaves the `Caller` in a request's scope."""


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Args:
        name: `key:<id>` of a caller with a key, `address:<network>` of one without.
        address: Host that the connection comes from; empty where it is not known.
        role: Role of the key. A caller without keys to show has all of them.
        label: Name that an administrator gave the key; empty without a key.
    """

    name: str
    address: str
    role: Role
    label: str = ""


def caller_of(scope: Scope) -> Caller:
    """Return the caller of a request, by its address where nothing authenticated it."""
    known = scope.get(SCOPE)
    if isinstance(known, Caller):
        return known
    return keyless(address_of(scope))


def keyless(address: str) -> Caller:
    """Return the caller at an address that needs no key, who may do everything."""
    return Caller(f"address:{network_of(address)}", address, "admin")


def address_of(scope: Scope) -> str:
    """Return the host that a request's connection comes from; empty where it is not known."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def network_of(host: str) -> str:
    """Return what an address is counted by: for IPv6 its /64, all of whose addresses one machine may have."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
