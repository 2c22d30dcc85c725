"""Callers and their roles."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from snf_app.http.errors import Problem
from snf_client.schemas.base import Role
from snf_worker.keys import ROLES

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
    address = address_of(scope)
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


ALLOWED = "snf.allowed"  # key of a request's scope, set where the caller has the role that the operation needs

log = logging.getLogger(__name__)

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, as `Authorization: Bearer KEY`."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
"""The two ways to send a key, for OpenAPI."""


def require(scope: Scope, needed: Role, what: str = "this call") -> None:
    """Raise 403 if the caller lacks the role ``needed`` for ``what``, or 401 if it was not authenticated."""
    caller = scope.get(SCOPE)
    if not isinstance(caller, Caller):
        # A path that was left open by mistake.
        raise Problem("unauthorized", "the request was not authenticated")
    if ROLES.index(caller.role) < ROLES.index(needed):
        log.info("refused %s %s to %s, role %s", scope["method"], scope["path"][:200], caller.name, caller.role)
        raise Problem(
            "insufficient-role",
            f"the key {caller.label!r} has the role {caller.role!r}; {what} needs {needed!r}",
            extensions={"needed": needed, "held": caller.role},
        )


def permit(scope: Scope, needed: Role) -> None:
    """Mark a request as allowed in its scope; raise as :func:`require`."""
    require(scope, needed)
    scope[ALLOWED] = True


def without_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of an OpenAPI document for a service that has no keys."""
    paths = {
        path: {
            method: operation | {"security": [*operation["security"], {}]} if "security" in operation else operation
            for method, operation in calls.items()
        }
        for path, calls in document["paths"].items()
    }
    return document | {"paths": paths}
