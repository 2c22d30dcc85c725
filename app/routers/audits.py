"""Audits: whether a model's scores are what they are without anything cached."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query

from app.access import MayScore
from app.audit_schemas import Audit
from app.audit_views import audit_view
from app.deadline import TimeoutMs, deadline
from app.house import InHouse
from app.lane import Ticket
from app.problems import responses

if TYPE_CHECKING:
    from models.scoring.audit import Audited

COST = 16
"""What an audited image counts in the queue: a pass in float64, layer by layer, takes so many times that of an engine.

Each waits for its own turn, so that others do not wait for more than one.
"""

router = APIRouter(prefix="/v1/models/{ref}/audit", tags=["models"], dependencies=[MayScore])

Count = Annotated[int, Query(ge=1, le=16, description="Number of images; each is a pass in float64.")]


@router.get(
    "",
    operation_id="audit_model",
    summary="Compute scores again without anything cached",
    responses=responses(401, 404, 422, 429, 500, 503, 504),
)
async def audit_model(ref: str, house: InHouse, n: Count = 4, timeout_ms: TimeoutMs = None) -> Audit:
    """Scores stored images twice: by the engine in use, and by the flow as it was trained, in float64.

    The second pass takes nothing that was cached or frozen: each layer computes its own log-determinant, determinants
    included. Where fewer images are stored with the model, samples of it follow, the same every time.
    """
    async with deadline(timeout_ms, house.settings.request_timeout_s):
        loaded = await house.serving.acquire(ref)
        from models.scoring.audit import audit  # noqa: PLC0415 - it imports PyTorch, which is loaded by now

        def work(index: int, ticket: Ticket) -> Audited:
            return audit(loaded.scorer, index, ticket.check)

        cost = min(COST, house.lane.capacity)
        audited = [await house.lane.run(partial(work, index), cost) for index in range(n)]
        return audit_view(loaded, audited)
