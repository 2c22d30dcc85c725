from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from snf_app.access.permissions import permit, role_needed
from snf_app.http.errors import REMOVED, FieldProblem, invalid_fields, pointer_of
from snf_app.http.request_log import shortened
from snf_app.http.schemas import Name
from snf_models.texts.suggestions import choices

MAX_NAMED = 10
"""Unknown parameters that an answer names at most."""


class PageQuery(BaseModel):
    """Query parameters of a list of named resources: where a page begins, and its size."""

    after: Name | None = Field(None, description="`next` of the page before.")
    limit: int = Field(200, ge=1, le=200, description="Most entries in one page.")

    def page(self, names: Iterable[str], key: Callable[[str], Any] = str) -> tuple[list[str], str | None]:
        """Return the names of this page, and ``after`` of the next one; ``key`` orders all names."""
        rest = sorted((name for name in names if self.after is None or key(name) > key(self.after)), key=key)
        shown = rest[: self.limit]
        return shown, shown[-1] if len(rest) > self.limit else None


async def require_known_query(request: Request) -> None:
    """Raise 422 for query parameters that the route does not declare; pages outside of the API take any."""
    if not request.query_params:
        return
    route: APIRoute = request.scope["route"]
    known = _declared(route)
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if not unknown or not route.include_in_schema:
        return
    # This runs before the other dependencies of the route: who may not make the call learns nothing of it.
    role = role_needed(route.dependencies)
    if role is not None:
        permit(request.scope, role)
    errors = [
        FieldProblem(
            pointer=pointer_of(("query", name)),
            detail=REMOVED.get(name) or f"there is no such parameter; {choices(name, known)}",
        )
        for name in (shortened(name) for name in unknown[:MAX_NAMED])
    ]
    raise invalid_fields(errors)


KnownQuery = Depends(require_known_query)
"""The dependency of all routes."""


def _declared(route: APIRoute) -> tuple[str, ...]:
    """Return the names of the query parameters that a route and its dependencies declare."""
    return tuple(dict.fromkeys(_names(route.dependant)))


def _names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (info.alias or name for name, info in kind.model_fields.items())
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _names(dependency)
