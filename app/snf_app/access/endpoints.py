from __future__ import annotations

from snf_app.access.permissions import CallerScope, MayRead, caller_of
from snf_app.http.errors import responses
from snf_app.http.router import Router
from snf_client.schemas.service import CallerView
from snf_worker.keys import ROLES, includes

router = Router(prefix="/v1/me", tags=["operations"], dependencies=[MayRead])


@router.get("", operation_id="show_caller", summary="Show who is calling", responses=responses(401, 500))
async def show_caller(scope: CallerScope) -> CallerView:
    """Show who is calling: the name, id and role of the API key that the request carries.

    The secret of the key is not shown. Without keys, the name is `anyone` and the role `admin`.
    """
    caller = caller_of(scope)
    return CallerView(
        name=caller.label or "anyone",
        key=caller.key,
        role=caller.role,
        may=[role for role in ROLES if includes(caller.role, role)],
    )
