"""Who may call: keys in `Authorization: Bearer` or `X-API-Key`, when the settings name any."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.house import the_house
from app.problems import Problem

Role = Literal["score", "train", "admin"]

_bearer = HTTPBearer(auto_error=False, scheme_name="bearer")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key")


def needs(role: Role) -> Callable[..., Awaitable[None]]:
    """A dependency that lets callers of this role through and answers others with a 401 problem.

    Every configured key carries every role.
    """

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> None:
        # Called and not depended on: FastAPI would find its way to the house twice for every request.
        keys = (await the_house(request)).settings.api_keys
        if not keys:
            return
        given = bearer.credentials if bearer else header
        if given is None:
            raise _refused(f"a key with the role {role!r} is needed and none was given")
        # Every key is compared, and in full, so that the time taken tells nothing.
        matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
        if True not in matches:
            raise _refused("the key is not known")

    return check


def _refused(detail: str) -> Problem:
    return Problem(
        401,
        "unauthorized",
        "A valid key is needed",
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="snf"'},
    )


MayScore = Depends(needs("score"))
MayTrain = Depends(needs("train"))
MayLook = MayScore
"""A key of any role: every key carries every role."""
