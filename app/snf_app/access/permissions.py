"""Callers and their roles: FastAPI dependencies that check them, and their description in OpenAPI."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Security, params
from fastapi.security import APIKeyHeader, HTTPBearer, SecurityScopes
from starlette.types import Scope

from snf_app.http.errors import Problem, responses
from snf_client.schemas.base import Role
from snf_worker.keys import ROLES, includes

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


REFUSALS = (401, 403, 429, 503)
"""Statuses of a refusal: no valid key, insufficient role, rate limit, keys unreadable."""

ALLOWED = "snf.allowed"
"""Key of a request's scope, set where the caller has the role that the operation needs."""

log = logging.getLogger(__name__)

# Only for OpenAPI: ``snf_app.access.authentication`` has read the key before.
_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="A key, as `Authorization: Bearer KEY`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="The same key.")


async def _check(
    scopes: SecurityScopes,
    request: Request,
    _given: Annotated[object, Security(_bearer)],
    _other: Annotated[object, Security(_header)],
) -> None:
    for needed in ROLES:
        if needed in scopes.scopes:
            permit(request.scope, needed)


MayRead = Security(_check, scopes=["read"])
MayScore = Security(_check, scopes=["score"])
MayTrain = Security(_check, scopes=["train"])
MayAdminister = Security(_check, scopes=["admin"])


def require(scope: Scope, needed: Role, what: str = "this call") -> Caller:
    """Return the caller if it has the role ``needed`` for ``what``; else raise 403, or 401 without authentication."""
    caller = scope.get(SCOPE)
    if not isinstance(caller, Caller):
        # A path that was left open by mistake.
        raise Problem(401, "unauthorized", "A valid key is needed", "the request was not authenticated")
    if not includes(caller.role, needed):
        log.info("refused %s %s to %s, role %s", scope["method"], scope["path"][:200], caller.name, caller.role)
        raise Problem(
            403,
            "insufficient-role",
            "The key may not do this",
            f"the key {caller.label!r} has the role {caller.role!r}; {what} needs {needed!r}",
            extensions={"needed": needed, "held": caller.role},
        )
    return caller


def permit(scope: Scope, needed: Role) -> None:
    """Mark a request as allowed in its scope; raise as :func:`require`."""
    require(scope, needed)
    scope[ALLOWED] = True


def role_needed(dependencies: Iterable[params.Depends]) -> Role | None:
    """Return the role that a route's dependencies require, or None."""
    for dependency in dependencies:
        if isinstance(dependency, params.Security) and dependency.dependency is _check:
            return next(role for role in ROLES if role in (dependency.scopes or ()))
    return None


async def _caller(request: Request) -> Scope:
    return request.scope


CallerScope = Annotated[Scope, Depends(_caller)]
"""The scope of a request, for checks of roles that depend on its body."""


def describe(document: dict[str, Any]) -> None:
    """Add the role and the refusals 401, 403, 429 and 503 to each operation of a document, in place."""
    refusals = responses(*REFUSALS)
    for calls in document["paths"].values():
        for operation in calls.values():
            role = role_of(operation)
            if role is None:
                continue
            operation["description"] = f"{operation.get('description', '')}\n\nNeeds the role `{role}`.".strip()
            for status, answer in refusals.items():
                operation["responses"].setdefault(str(status), answer)
            operation["responses"] = dict(sorted(operation["responses"].items()))


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


def role_of(operation: dict[str, Any]) -> Role | None:
    """Return the role that an operation of an OpenAPI document requires, or None."""
    named = {role for requirement in operation.get("security", []) for roles in requirement.values() for role in roles}
    return max((role for role in ROLES if role in named), key=ROLES.index, default=None)
